package btrfs_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

// paths returns the relative paths of all subvolumes, in order.
func paths(t *testing.T, f *fixture) []string {
	t.Helper()
	return slices.Sorted(maps.Keys(testpool.Subvolumes(t, f.pool.Dir)))
}

func TestSubvolumesNamed(t *testing.T) {
	f := newFixture(t, testpool.Options{Subvolume: "@"})
	assert.NilError(t, os.MkdirAll(f.path("tenant", "volume"), 0o700))
	assert.NilError(t, os.MkdirAll(f.path("tenant", "other"), 0o700))
	for _, path := range []string{"tenant/volume/data", "tenant/other/date", "tenant/volume/data/data", "data"} {
		assert.NilError(t, btrfs.CreateSubvolume(openDir(t, f.path(filepath.Dir(path))), filepath.Base(path)))
	}
	want := map[uint64]btrfs.SubvolumeRef{}
	for _, directory := range []string{"tenant/volume", "."} { // without the one in another subvolume
		var st unix.Stat_t
		assert.NilError(t, unix.Stat(f.path(directory), &st))
		_, info := f.opened(directory + "/data")
		want[st.Ino] = btrfs.SubvolumeRef{ID: info.ID, UUID: info.UUID}
	}
	got, err := f.SubvolumesNamed(openDir(t, f.path("tenant")), "data")
	assert.NilError(t, err)
	assert.DeepEqual(t, got, want)
}

// The list needs more than one system call.
func TestManySubvolumes(t *testing.T) {
	f := newFixture(t, testpool.Options{Quota: btrfs.QuotaFull})
	const count, rootItemSize, qgroupItemSize = 1200, 439 + 32, 40 + 32
	assert.Assert(t, count*rootItemSize > 2*btrfs.SearchBufferSize)
	assert.Assert(t, count*2*qgroupItemSize > 2*btrfs.SearchBufferSize)
	want := make([]string, count)
	for i := range want {
		want[i] = fmt.Sprintf("volume%05d", i)
		assert.NilError(t, btrfs.CreateSubvolume(f.dir, want[i]))
	}
	assert.DeepEqual(t, paths(t, f), want)
	states, err := f.SubvolumeStates()
	assert.NilError(t, err)
	assert.Equal(t, len(states), count+1) // including the top, which contains them

	f.commit()
	qgroups, err := f.Qgroups()
	assert.NilError(t, err)
	assert.Equal(t, len(qgroups), count+1) // including the top
	counts := map[uint64]btrfs.Qgroup{}
	assert.NilError(t, f.EachQgroupCounts(func(q btrfs.Qgroup) { counts[q.ID] = q }))
	assert.DeepEqual(t, counts, qgroups) // no limits are set
	for _, subvolume := range testpool.Subvolumes(t, f.pool.Dir) {
		one, err := f.Qgroup(subvolume.ID)
		assert.NilError(t, err)
		assert.Equal(t, qgroups[subvolume.ID], one)
		assert.Equal(t, one.Referenced, uint64(16<<10))
	}
}
