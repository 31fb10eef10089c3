package btrfs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

func paths(t *testing.T, f *fixture) []string {
	t.Helper()
	subvolumes, err := f.Subvolumes()
	assert.NilError(t, err)
	var found []string
	for _, subvolume := range subvolumes {
		found = append(found, subvolume.Path)
	}
	slices.Sort(found)
	return found
}

// Paths are relative to the top of the filesystem, although only the subvolume "@" is mounted.
func TestSubvolumesBelowAMountedSubvolume(t *testing.T) {
	f := newFixture(t, testpool.Options{Subvolume: "@"})
	assert.NilError(t, os.MkdirAll(f.path("base", "tenant", "volume"), 0o700))
	volume := openDir(t, f.path("base", "tenant", "volume"))
	assert.NilError(t, btrfs.CreateSubvolume(volume, "data"))
	data := openDir(t, f.path("base", "tenant", "volume", "data"))
	assert.NilError(t, btrfs.CreateSubvolume(data, "nested"))
	assert.NilError(t, btrfs.Snapshot(data, f.dir, "snapshot", true))

	assert.DeepEqual(t, paths(t, f), []string{
		"@", "@/base/tenant/volume/data", "@/base/tenant/volume/data/nested", "@/snapshot",
	})
	for path, want := range map[string]string{
		"":                               "@",
		"base":                           "@/base",
		"base/tenant/volume":             "@/base/tenant/volume",
		"base/tenant/volume/data":        "@/base/tenant/volume/data",
		"base/tenant/volume/data/nested": "@/base/tenant/volume/data/nested",
	} {
		got, err := f.PathOf(openDir(t, f.path(path)))
		assert.NilError(t, err)
		assert.Equal(t, got, want)
	}

	subvolumes, err := f.Subvolumes()
	assert.NilError(t, err)
	for _, ref := range subvolumes[1:] { // "@" itself is not below the mount point
		info, err := btrfs.Subvolume(openDir(t, f.path(ref.Path[len("@"):])))
		assert.NilError(t, err)
		assert.Equal(t, ref.ID, info.ID)
		assert.Equal(t, ref.ParentID, info.ParentID)
		assert.Equal(t, ref.UUID, info.UUID)
		assert.Equal(t, ref.ParentUUID, info.ParentUUID)
		assert.Equal(t, ref.ReadOnly, info.ReadOnly)
	}
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
		want[st.Ino] = btrfs.SubvolumeRef{ID: info.ID, ParentID: info.ParentID, UUID: info.UUID}
	}
	got, err := f.SubvolumesNamed(openDir(t, f.path("tenant")), "data")
	assert.NilError(t, err)
	assert.DeepEqual(t, got, want)
}

func TestSubvolumesAfterRenameAndDestroy(t *testing.T) {
	f := newFixture(t, testpool.Options{})
	for _, name := range []string{"a", "b", "c"} {
		f.subvolume(name)
	}
	assert.NilError(t, os.Mkdir(f.path("directory"), 0o700))
	assert.NilError(t, os.Rename(f.path("a"), f.path("directory", "renamed")))
	assert.NilError(t, btrfs.DestroySubvolume(f.dir, "b"))
	assert.DeepEqual(t, paths(t, f), []string{"c", "directory/renamed"})
	top, err := f.PathOf(f.dir)
	assert.NilError(t, err)
	assert.Equal(t, top, "")
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

	f.commit()
	qgroups, err := f.Qgroups()
	assert.NilError(t, err)
	subvolumes, err := f.Subvolumes()
	assert.NilError(t, err)
	assert.Equal(t, len(qgroups), count+1) // including the top
	counts := map[uint64]btrfs.Qgroup{}
	assert.NilError(t, f.EachQgroupCounts(func(q btrfs.Qgroup) { counts[q.ID] = q }))
	assert.DeepEqual(t, counts, qgroups) // no limits are set
	for _, subvolume := range subvolumes {
		one, err := f.Qgroup(subvolume.ID)
		assert.NilError(t, err)
		assert.Equal(t, qgroups[subvolume.ID], one)
		assert.Equal(t, one.Referenced, uint64(16<<10))
	}
}
