package storage

import (
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// A limit can be removed and set again, in both quota modes, and both survive a restart.
func TestLimitIsLiftedAndSetAnew(t *testing.T) {
	t.Parallel()
	for _, mode := range []Quota{QuotaFull, QuotaSimple} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			pool := newPool(t)
			config := Config{BasePath: pool.Dir, Tenants: []string{tenant}, Quota: mode}
			s := reopened(t, config, newMemoryExporter())
			ten := mustTenant(t, s)
			ctx := t.Context()
			v, _, err := ten.CreateVolume(ctx, VolumeSpec{Name: "v", SizeBytes: 16 * mib})
			assert.NilError(t, err)

			for range 2 {
				v, err = ten.UpdateVolume(ctx, "v", VolumeUpdate{RequestedProperties: chosen{SizeLimit: ptr(false)}})
				assert.NilError(t, err)
				assert.Equal(t, v.QuotaBytes, int64(0))
			}
			assert.NilError(t, writeBytes(v.Path, "beyond", 24*mib))
			report, err := ten.Report(ctx, "v")
			assert.NilError(t, err)
			assert.Equal(t, report.QuotaBytes, int64(0))
			assert.Equal(t, len(report.Conditions), 0)

			if mode == QuotaFull { // data that is not written out yet counts too
				assert.NilError(t, os.Remove(filepath.Join(v.Path, dataDir, "beyond")))
				assert.NilError(t, os.WriteFile(filepath.Join(v.Path, dataDir, "beyond"), make([]byte, 24*mib), 0o600))
			}
			_, err = ten.UpdateVolume(ctx, "v", VolumeUpdate{RequestedProperties: chosen{SizeLimit: ptr(true)}})
			assertCode(t, err, agentapi.Invalid)
			assert.ErrorContains(t, err, "size_limit")
			v, err = ten.UpdateVolume(ctx, "v", VolumeUpdate{SizeBytes: ptr(20 * mib)})
			assert.NilError(t, err)
			assert.Equal(t, v.QuotaBytes, int64(0), "growing does not bring the limit back")

			// A copy of the volume has a limit, and room for its contents.
			_, _, err = ten.CreateSnapshot(ctx, SnapshotSpec{Name: "s", Volume: "v"})
			assert.NilError(t, err)
			if mode == QuotaFull {
				_, _, err = ten.Clone(ctx, CloneSpec{Name: "small", Snapshot: "s", SizeBytes: 20 * mib})
				assertCode(t, err, agentapi.Invalid)
			}
			c, _, err := ten.Clone(ctx, CloneSpec{Name: "c", Volume: "v", SizeBytes: 32 * mib})
			assert.NilError(t, err)
			assert.Equal(t, c.QuotaBytes, 32*mib)
			same, _, err := ten.Clone(ctx, CloneSpec{Name: "same", Volume: "v"})
			assert.NilError(t, err)
			assert.Assert(t, same.QuotaBytes >= 24*mib && same.QuotaBytes == same.SizeBytes, "%d", same.QuotaBytes)

			assert.NilError(t, s.Close(ctx))
			s = open(t, config, newMemoryExporter())
			ten = mustTenant(t, s)
			assert.NilError(t, writeBytes(v.Path, "more", 4*mib))
			v, err = ten.UpdateVolume(ctx, "v", VolumeUpdate{SizeBytes: ptr(64 * mib), RequestedProperties: chosen{SizeLimit: ptr(true)}})
			assert.NilError(t, err)
			assert.Equal(t, v.QuotaBytes, 64*mib)
			assertEnforced(t, v.Path, 4*mib, 64*mib)
			assertRules(t, s)
		})
	}
}

func TestMountOptionsAreKept(t *testing.T) {
	t.Parallel()
	pool := testpool.New(t, smallPool)
	config := Config{BasePath: pool.Dir, Tenants: []string{tenant}}
	s := reopened(t, config, newMemoryExporter())
	ten := mustTenant(t, s)
	mustCreate(t, ten, "v")
	options := []string{"nconnect=4", "noatime", "ro"}
	v, err := ten.UpdateVolume(t.Context(), "v", VolumeUpdate{RequestedProperties: chosen{MountOptions: &[]string{"nconnect=4,noatime", "ro"}}})
	assert.NilError(t, err)
	assert.DeepEqual(t, v.MountOptions, options)
	for _, bad := range [][]string{{"a b"}, {"hard,bg"}, {"vers=3"}, {""}, {"a,"}, {"ü"}} {
		_, err := ten.UpdateVolume(t.Context(), "v", VolumeUpdate{RequestedProperties: chosen{MountOptions: &bad}})
		assertCode(t, err, agentapi.Invalid)
		assert.ErrorContains(t, err, "mount_options")
	}
	_, err = ten.UpdateVolume(t.Context(), "v", VolumeUpdate{Labels: map[string]string{"a": "b"}})
	assert.NilError(t, err)
	assert.NilError(t, s.Close(t.Context()))

	ten = mustTenant(t, open(t, config, newMemoryExporter()))
	v, err = ten.GetVolume(t.Context(), "v")
	assert.NilError(t, err)
	assert.DeepEqual(t, v.MountOptions, options)
	v, err = ten.UpdateVolume(t.Context(), "v", VolumeUpdate{RequestedProperties: chosen{MountOptions: &[]string{}}})
	assert.NilError(t, err)
	assert.Equal(t, len(v.MountOptions), 0)
}

// A power cut before the commit of a deletion restores the volume. Until then no caller sees it as
// gone.
func TestDeletionIsSeenOnceItLasts(t *testing.T) {
	t.Parallel()
	r := newTestEnv(t, smallPool)
	mustCreate(t, r.ten, "v")
	commits := 0
	r.faults.watch(func(step string) {
		if step == "commit" {
			commits++
			_, err := r.ten.GetVolume(t.Context(), "v")
			assert.Check(t, err)
		}
	})
	err := r.ten.DeleteVolume(t.Context(), "v")
	r.faults.watch(nil)
	assert.NilError(t, err)
	assert.Equal(t, commits, 1)
	_, err = r.ten.GetVolume(t.Context(), "v")
	assertCode(t, err, agentapi.NotFound)
}
