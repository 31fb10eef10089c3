package storage

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/testpool"
)

// TestMakeInterruptedPools is compiled with the package and its tests as they were in 57e475d: see
// TestUpgradeOfInterruptedPools. For each change, and each of its steps, it makes a pool on which an
// agent was killed before that step, with what a client knows beside it.
func TestMakeInterruptedPools(t *testing.T) {
	base := os.Getenv("BNC_FORMER_POOLS")
	for i, op := range operations() {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			learned := formerRig(t, filepath.Join(base, fmt.Sprintf("%02d-0", i)))
			_, after, steps := learned.learn(op)
			learned.store.abandon()
			for k := 1; k <= len(steps)+1; k++ {
				dir := filepath.Join(base, fmt.Sprintf("%02d-%d", i, k))
				r := formerRig(t, dir)
				op.prepare(t, r.ten)
				before := r.view()
				acknowledged := r.killAt(op, k)
				r.store.abandon()
				content, err := json.Marshal(map[string]any{
					"Operation": op.name, "Step": nth(steps, k), "Acknowledged": acknowledged, "Before": before, "After": after,
				})
				assert.NilError(t, err)
				assert.NilError(t, os.WriteFile(dir+".json", content, 0o600))
			}
		})
	}
}

func formerRig(t *testing.T, dir string) *rig {
	t.Helper()
	assert.NilError(t, os.Mkdir(dir, 0o755))
	r := &rig{t: t, pool: &testpool.Pool{Dir: dir}, quota: QuotaAuto, faults: &faults{}}
	r.exporter = faultyExporter{newMemoryExporter(), r.faults}
	r.open()
	withBystanders(t, r.ten)
	return r
}
