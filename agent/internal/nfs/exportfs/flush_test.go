package exportfs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// Files represent a kernel whose flush time is ahead and which holds a deleted volume.
func TestRunsWaitForTheKernelToClean(t *testing.T) {
	h := newHost(t)
	h.config.ProcRoot = t.TempDir()
	cache := filepath.Join(h.config.ProcRoot, "net/rpc/nfsd.export")
	assert.NilError(t, os.MkdirAll(cache, 0o755))
	engine := h.engine()
	assert.NilError(t, engine.Start(t.Context(), nil))
	export := func(name string, ahead time.Duration, held string) time.Duration {
		flush := fmt.Sprintf("%d\n", time.Now().Add(ahead).Unix())
		assert.NilError(t, os.WriteFile(filepath.Join(cache, "flush"), []byte(flush), 0o600))
		assert.NilError(t, os.WriteFile(filepath.Join(cache, "content"), []byte("#path domain(flags)\n"+held), 0o600))
		begin := time.Now()
		assert.NilError(t, engine.Export(t.Context(), []nfs.Export{h.export(name, "10.0.0.1")}))
		return time.Since(begin)
	}
	deleted := "# " + h.base + "/t/.trash-1/data\\040(deleted)\t10.0.0.1(rw)\n"
	waited := export("v1", 2*time.Second, deleted)
	assert.Assert(t, waited > time.Second, "%v", waited)
	waited = export("v2", time.Hour, deleted)
	assert.Assert(t, waited > 2*time.Second && waited < 10*time.Minute, "as long as it is worth it, not an hour: %v", waited)
	waited = export("v3", time.Hour, "")
	assert.Assert(t, waited > 2*time.Second, "what is deleted next would wait: %v", waited)
}
