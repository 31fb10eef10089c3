package storage

import (
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// A volume that shares data needs force for a defragmentation, whatever it shares the data with.
func TestDefragmentable(t *testing.T) {
	t.Parallel()
	for _, mode := range []Quota{QuotaFull, QuotaSimple, QuotaOff} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			pool := newPool(t)
			ten := mustTenant(t, open(t, Config{BasePath: pool.Dir, Quota: mode}, newMemoryExporter()))
			ctx := t.Context()
			allowed := func(name string) {
				t.Helper()
				path, err := ten.Defragmentable(ctx, name, false)
				assert.NilError(t, err)
				assert.Equal(t, path, filepath.Join(tenant, name, dataDir))
			}
			refused := func(name string) {
				t.Helper()
				_, err := ten.Defragmentable(ctx, name, false)
				assertCode(t, err, agentapi.Invalid)
				assert.ErrorContains(t, err, "force must be true")
				_, err = ten.Defragmentable(ctx, name, true)
				assert.NilError(t, err)
			}
			v := mustCreate(t, ten, "v")
			assert.NilError(t, writeBytes(v.Path, "file", 8*mib))
			mustCreate(t, ten, "alone")
			allowed("v")
			withSnapshotOf(t, ten, "v")
			refused("v")
			_, _, err := ten.Clone(ctx, CloneSpec{Name: "c", Snapshot: "s"})
			assert.NilError(t, err)
			refused("c")
			assert.NilError(t, ten.DeleteSnapshot(ctx, "s"))
			refused("v") // with the clone
			refused("c")
			// A new volume of the name shares nothing with the remains of the old one.
			mustCreate(t, ten, "old")
			_, _, err = ten.CreateSnapshot(ctx, SnapshotSpec{Name: "s-of-old", Volume: "old"})
			assert.NilError(t, err)
			_, _, err = ten.Clone(ctx, CloneSpec{Name: "c-of-old", Volume: "old"})
			assert.NilError(t, err)
			_, _, err = ten.Clone(ctx, CloneSpec{Name: "c-of-s", Snapshot: "s-of-old"})
			assert.NilError(t, err)
			refused("old")
			assert.NilError(t, ten.DeleteVolume(ctx, "old"))
			mustCreate(t, ten, "old")
			allowed("old")

			if mode != QuotaFull {
				return
			}
			allowed("alone")
			alone, err := ten.GetVolume(ctx, "alone")
			assert.NilError(t, err)
			reflink(t, filepath.Join(v.Path, dataDir, "file"), filepath.Join(alone.Path, dataDir, "copy"))
			refused("alone")
		})
	}
	ten, _ := openTenant(t)
	for name, code := range map[string]agentapi.Code{"none": agentapi.NotFound, "../v": agentapi.Invalid, "": agentapi.Invalid} {
		_, err := ten.Defragmentable(t.Context(), name, true)
		assertCode(t, err, code)
	}
}
