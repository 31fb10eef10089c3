package storage

import (
	"fmt"
	"slices"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

// A single change waits for one commit, and a snapshot for the commit that it makes. In full quota
// mode the kernel makes more commits after a deletion (btrfs_qgroup_cleanup_dropped_subvolume in
// fs/btrfs/qgroup.c, Linux 6.10).
func TestEachChangeTakesOneCommit(t *testing.T) {
	t.Parallel()
	for _, mode := range []Quota{QuotaOff, QuotaFull} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			pool := testpool.New(t, testpool.Options{MountOptions: "commit=300"}) // seconds: the kernel does not commit on a timer
			ten := mustTenant(t, open(t, Config{BasePath: pool.Dir, Quota: mode}, newMemoryExporter()))
			ctx, fs := t.Context(), fsOf(t, ten.store)
			assert.NilError(t, fs.WaitRescan(ctx))
			assert.NilError(t, fs.Commit(ctx))
			// On a busy machine, the wait for a commit requests another one: see startCommit in
			// package btrfs.
			const rounds = 10
			for round := 1; ; round++ {
				took := commitsOfChanges(t, ten, round, func() int { return testpool.Commits(t, fs.FSID()) })
				if round == rounds || !slices.ContainsFunc(took, func(c changeCommits) bool { return c.commits > 1 }) {
					for _, c := range took {
						assert.Equal(t, c.commits, 1, c.change)
					}
					return
				}
			}
		})
	}
}

type changeCommits struct {
	change  string
	commits int
}

func commitsOfChanges(t *testing.T, ten *Tenant, round int, commits func() int) (took []changeCommits) {
	t.Helper()
	ctx := t.Context()
	v, c, s := fmt.Sprint("v", round), fmt.Sprint("c", round), fmt.Sprint("s", round)
	one := func(what string, change func() error) {
		t.Helper()
		before := commits()
		assert.NilError(t, change(), what)
		took = append(took, changeCommits{what, commits() - before})
	}
	one("create", func() error {
		_, _, err := ten.CreateVolume(ctx, VolumeSpec{Name: v, SizeBytes: 64 * mib})
		return err
	})
	one("clone", func() error {
		_, _, err := ten.Clone(ctx, CloneSpec{Name: c, Volume: v})
		return err
	})
	one("snapshot", func() error {
		_, _, err := ten.CreateSnapshot(ctx, SnapshotSpec{Name: s, Volume: v})
		return err
	})
	one("resize", func() error {
		_, err := ten.UpdateVolume(ctx, v, VolumeUpdate{SizeBytes: ptr(128 * mib)})
		return err
	})
	one("export", func() error {
		_, err := ten.Export(ctx, v, ExportSpec{Client: client1})
		return err
	})
	one("unexport", func() error { return ten.Unexport(ctx, v, client1, nil) })
	if ten.store.config.Quota == QuotaOff {
		one("delete volume", func() error { return ten.DeleteVolume(ctx, v) })
		one("delete snapshot", func() error { return ten.DeleteSnapshot(ctx, s) })
	}
	return took
}
