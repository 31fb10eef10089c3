package storage

import (
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// A tenant whose directory is unusable keeps its exports, and does not keep other tenants from
// being served. When the directory is usable again, the tenant is served without a restart.
func TestBrokenTenant(t *testing.T) {
	for name, damage := range map[string]struct {
		do, undo func(t *testing.T, dir string)
	}{
		"a file": {
			do: func(t *testing.T, dir string) {
				assert.NilError(t, os.Rename(dir, asideOf(dir)))
				assert.NilError(t, os.WriteFile(dir, nil, 0o600))
			},
			undo: func(t *testing.T, dir string) {
				assert.NilError(t, os.Remove(dir))
				assert.NilError(t, os.Rename(asideOf(dir), dir))
			},
		},
		"a link": {
			do: func(t *testing.T, dir string) {
				assert.NilError(t, os.Rename(dir, asideOf(dir)))
				assert.NilError(t, os.Symlink(asideOf(dir), dir))
			},
			undo: func(t *testing.T, dir string) {
				assert.NilError(t, os.Remove(dir))
				assert.NilError(t, os.Rename(asideOf(dir), dir))
			},
		},
		"snapshots is a file": {
			do: func(t *testing.T, dir string) {
				assert.NilError(t, os.Remove(filepath.Join(dir, snapshotsDir)))
				assert.NilError(t, os.WriteFile(filepath.Join(dir, snapshotsDir), nil, 0o600))
			},
			undo: func(t *testing.T, dir string) { assert.NilError(t, os.Remove(filepath.Join(dir, snapshotsDir))) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, exporter := newPool(t), newMemoryExporter()
			config := Config{BasePath: pool.Dir, Tenants: []string{tenant, "broken"}}
			s := reopened(t, config, exporter)
			broken, err := s.Tenant("broken")
			assert.NilError(t, err)
			for _, ten := range []*Tenant{mustTenant(t, s), broken} {
				mustCreate(t, ten, "v")
				_, err = ten.Export(t.Context(), "v", ExportSpec{Client: client1})
				assert.NilError(t, err)
			}
			before := exporter.list()
			assert.NilError(t, s.Close(t.Context()))
			damage.do(t, filepath.Join(pool.Dir, "broken"))

			findings, err := Inspect(t.Context(), config, true)
			assert.NilError(t, err)
			assert.Equal(t, len(findings), 1)
			assert.Equal(t, findings[0].Kind, ondisk.Quarantined)
			assert.Assert(t, is.Contains(findings[0].Detail, "the tenant cannot be loaded"))
			s = reopened(t, config, exporter)
			_, err = s.Tenant("broken")
			assertCode(t, err, agentapi.Unavailable)
			assert.DeepEqual(t, reasons(s.Conditions()), []string{agentapi.ReasonTenantUnavailable})
			s.reloads.mark(broken.volumeLock("v")) // as a load that fails midway does
			s.retryTenants()
			assert.Equal(t, len(s.reloads.all()), 0)
			mustCreate(t, mustTenant(t, s), "w")
			assert.NilError(t, mustTenant(t, s).Unexport(t.Context(), "v", client1, nil))
			s.maintain(t.Context())
			assert.NilError(t, s.reconcileExports(t.Context()))
			assert.Equal(t, len(exporter.list()), len(before)-1, "%v", exporter.list())

			damage.undo(t, filepath.Join(pool.Dir, "broken"))
			s.maintain(t.Context())
			broken, err = s.Tenant("broken")
			assert.NilError(t, err)
			assert.Equal(t, len(mustGet(t, broken, "v").Refs), 1)
			assert.Equal(t, len(s.Conditions()), 0)
			assertRules(t, s)
			assert.NilError(t, s.Close(t.Context()))
		})
	}
}

func asideOf(dir string) string { return filepath.Join(filepath.Dir(dir), ".aside") }

// A directory in the base path belongs to a former tenant if it contains files of the agent. Its
// name does not matter.
func TestFormerTenants(t *testing.T) {
	pool := newPool(t)
	s := reopened(t, Config{BasePath: pool.Dir, Tenants: []string{tenant, "volumes", "saved", "damaged", "empty"}}, newMemoryExporter())
	for _, name := range []string{"volumes", "saved", "damaged"} {
		ten, err := s.Tenant(name)
		assert.NilError(t, err)
		withSnapshot(t, ten)
	}
	ten, err := s.Tenant("saved")
	assert.NilError(t, err)
	assert.NilError(t, ten.DeleteVolume(t.Context(), "v"))
	assert.NilError(t, s.Close(t.Context()))
	assert.NilError(t, os.Rename(filepath.Join(pool.Dir, "damaged/v/data"), filepath.Join(pool.Dir, "aside")))
	for _, dir := range []string{"home/snapshots/monday/data", "home/project/data", "home/.trash-0123456789abcdef/data"} {
		assert.NilError(t, os.MkdirAll(filepath.Join(pool.Dir, dir), 0o700))
		assert.NilError(t, os.WriteFile(filepath.Join(pool.Dir, dir, "../metadata.json"), []byte("{}"), 0o600))
	}
	s = reopened(t, Config{BasePath: pool.Dir, Tenants: []string{tenant}}, newMemoryExporter())
	var names []string
	for _, ten := range s.Tenants() {
		names = append(names, ten.Name())
	}
	assert.DeepEqual(t, sorted(names), []string{"damaged", "saved", tenant, "volumes"})
	assert.NilError(t, s.Close(t.Context()))
	_, err = os.Stat(filepath.Join(pool.Dir, "home/.trash-0123456789abcdef/data"))
	assert.NilError(t, err)
}
