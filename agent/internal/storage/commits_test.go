package storage

import (
	"fmt"
	"os"
	"testing"

	"github.com/google/uuid"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/testpool"
)

// A change that is alone waits for one commit, a snapshot for its own. In full quota mode the kernel makes more by itself after a
// deletion (btrfs_qgroup_cleanup_dropped_subvolume in fs/btrfs/qgroup.c, Linux 6.10).
func TestEachChangeTakesOneCommit(t *testing.T) {
	t.Parallel()
	for _, mode := range []Quota{QuotaOff, QuotaFull} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			pool := testpool.New(t, testpool.Options{MountOptions: "commit=300"}) // seconds: none by the kernel itself
			ten := mustTenant(t, open(t, Config{BasePath: pool.Dir, Quota: mode}, newMemoryExporter()))
			ctx, fs := t.Context(), ten.store.pool.fs
			assert.NilError(t, fs.WaitRescan(ctx))
			assert.NilError(t, fs.Commit(ctx))
			info, err := fs.Info()
			assert.NilError(t, err)
			one := func(what string, change func() error) {
				t.Helper()
				before := commits(t, info.FSID)
				assert.NilError(t, change(), what)
				assert.Equal(t, commits(t, info.FSID)-before, 1, what)
			}
			one("create", func() error {
				_, _, err := ten.CreateVolume(ctx, VolumeSpec{Name: "v", SizeBytes: 64 * mib})
				return err
			})
			one("clone", func() error {
				_, _, err := ten.Clone(ctx, CloneSpec{Name: "c", Volume: "v"})
				return err
			})
			one("snapshot", func() error {
				_, _, err := ten.CreateSnapshot(ctx, SnapshotSpec{Name: "s", Volume: "v"})
				return err
			})
			one("resize", func() error {
				_, err := ten.UpdateVolume(ctx, "v", VolumeUpdate{SizeBytes: ptr(128 * mib)})
				return err
			})
			one("export", func() error {
				_, err := ten.Export(ctx, "v", ExportSpec{Client: client1})
				return err
			})
			one("unexport", func() error { return ten.Unexport(ctx, "v", client1, nil) })
			if mode == QuotaOff {
				one("delete volume", func() error { return ten.DeleteVolume(ctx, "v") })
				one("delete snapshot", func() error { return ten.DeleteSnapshot(ctx, "s") })
			}
		})
	}
}

// commits is how many the filesystem has made since it was mounted (sysfs commit_stats, Linux 6.0).
func commits(t *testing.T, filesystem uuid.UUID) (n int) {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/sys/fs/btrfs/%s/commit_stats", filesystem))
	assert.NilError(t, err)
	_, err = fmt.Sscanf(string(content), "commits %d", &n)
	assert.NilError(t, err)
	return n
}
