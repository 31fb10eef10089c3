package storage

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

// Backup programs take read-only snapshots of volumes in a directory outside the base path
// (docs/operations/other-programs.md). Limits still hold. Volumes load at start, can be deleted,
// and their names become free.
func TestSnapshotsOfOtherPrograms(t *testing.T) {
	t.Parallel()
	for _, mode := range []Quota{QuotaFull, QuotaSimple} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			pool := newPool(t)
			base, backup := filepath.Join(pool.Dir, "volumes"), filepath.Join(pool.Dir, "backup")
			assert.NilError(t, os.Mkdir(base, 0o755))
			assert.NilError(t, os.Mkdir(backup, 0o755))
			config := Config{BasePath: base, Quota: mode, Tenants: []string{tenant}}
			s := reopened(t, config, newMemoryExporter())
			ten := mustTenant(t, s)
			v := mustCreate(t, ten, "v") // 64 MiB
			assert.NilError(t, writeBytes(v.Path, "kept", 20*mib))
			data := filepath.Join(v.Path, dataDir)
			btrfsCommand(t, "subvolume", "snapshot", "-r", data, filepath.Join(backup, "v.1"))
			assert.NilError(t, writeBytes(v.Path, "more", 20*mib))
			btrfsCommand(t, "subvolume", "snapshot", "-r", data, filepath.Join(backup, "v.2"))
			assert.NilError(t, commitNow(s))
			assert.ErrorIs(t, writeBytes(v.Path, "too-much", 40*mib), unix.EDQUOT)
			assert.NilError(t, s.Close(context.Background()))

			ten = mustTenant(t, open(t, config, newMemoryExporter()))
			assert.Equal(t, len(ten.store.Conditions()), 0)
			assert.NilError(t, ten.DeleteVolume(t.Context(), "v"))
			mustCreate(t, ten, "v")
			for name, size := range map[string]int64{"v.1/kept": 20 * mib, "v.2/more": 20 * mib} {
				info, err := os.Stat(filepath.Join(backup, name))
				assert.NilError(t, err)
				assert.Equal(t, info.Size(), size)
			}
			assert.Equal(t, len(ten.store.Conditions()), 0)
		})
	}
}
