package btrfs_test

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

func (f *fixture) space() btrfs.Space {
	f.t.Helper()
	space, err := f.Space()
	assert.NilError(f.t, err)
	return space
}

func TestSpaceFollowsWrites(t *testing.T) {
	f := newFixture(t, testpool.Options{Subvolume: "@"})
	empty := f.space()
	assert.Equal(t, empty.RawBytes, uint64(1<<30))
	assert.Equal(t, empty.TotalBytes, uint64(1<<30))
	assert.Equal(t, empty.DataRatio, 1.0)
	allocated := empty.Data.TotalBytes + 2*empty.Metadata.TotalBytes + 2*empty.System.TotalBytes // mkfs: single, DUP, DUP
	assert.Equal(t, empty.RawBytes-empty.UnallocatedBytes, allocated)
	assert.Assert(t, empty.Metadata.UsedBytes > 0 && empty.System.UsedBytes > 0 && empty.GlobalReserve.TotalBytes > 0)

	const size, slack = 100 * mib, 2 * mib
	assert.NilError(t, write(f.path("file"), size))
	f.commit()
	after := f.space()
	assert.Assert(t, near(after.Data.UsedBytes-empty.Data.UsedBytes, size, slack), "%+v", after)
	assert.Assert(t, near(after.UsedBytes-empty.UsedBytes, size, slack), "%+v", after)
	assert.Assert(t, near(empty.FreeBytes-after.FreeBytes, size, slack), "%+v", after)
}

// FreeBytes is accurate: about that many bytes can be written, and then no more.
func TestFreeBytesCanBeWritten(t *testing.T) {
	f := newFixture(t, testpool.Options{SizeBytes: 512 * mib})
	promised := f.space().FreeBytes
	assert.Assert(t, promised > 100*mib)
	assert.NilError(t, write(f.path("most"), int(promised)*9/10))
	assert.ErrorIs(t, write(f.path("rest"), int(promised)), unix.ENOSPC)
	f.commit()
	assert.Assert(t, f.space().FreeBytes < promised/20, "%+v", f.space())
}

// When metadata is full, no write succeeds, although much of the space for data is free.
func TestFreeBytesWithoutRoomForMetadata(t *testing.T) {
	f := newFixture(t, testpool.Options{SizeBytes: 256 * mib})
	f.subvolume("volume")
	// Data takes all unallocated space first, so that metadata cannot grow.
	for i := 0; ; i++ {
		if err := write(f.path(fmt.Sprintf("data%d", i)), 4*mib); err != nil {
			assert.ErrorIs(t, err, unix.ENOSPC)
			break
		}
	}
	f.commit()
	for i := range 8 {
		assert.NilError(t, os.Remove(f.path(fmt.Sprintf("data%d", i))))
	}
	f.commit()
	assert.Assert(t, f.space().FreeBytes >= 8*mib, "%+v", f.space())
	for round := range 3 { // uncommitted changes reserve more than they need
		assert.ErrorIs(t, f.fillMetadata(fmt.Sprintf("round%d", round)), unix.ENOSPC)
		f.commit()
	}
	space := f.space()
	assert.Assert(t, space.Data.TotalBytes-space.Data.UsedBytes >= 8*mib, "%+v", space)
	assert.Assert(t, space.FreeBytes == 0, "%+v", space)

	// Deletes still work because of the reserve.
	assert.NilError(t, btrfs.DestroySubvolume(f.dir, "volume"))
	assert.NilError(t, os.Remove(f.path("round0-0")))
	f.commit()
}

// fillMetadata creates files with xattrs until that fails.
func (f *fixture) fillMetadata(name string) error {
	value := make([]byte, 3000)
	for i := 0; ; i++ {
		path := f.path(fmt.Sprintf("%s-%d", name, i))
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			return err
		}
		if err := unix.Setxattr(path, "user.value", value, 0); err != nil {
			return err
		}
	}
}

func TestSpaceOfMirroredDevices(t *testing.T) {
	f := newFixture(t, testpool.Options{Devices: 2, SizeBytes: 512 * mib, Mkfs: []string{"-d", "raid1", "-m", "raid1"}})
	space := f.space()
	assert.Equal(t, space.DataRatio, 2.0)
	assert.Equal(t, space.RawBytes, uint64(1<<30))
	assert.Equal(t, space.TotalBytes, uint64(512*mib))
	assert.Assert(t, space.FreeBytes < 512*mib && space.FreeBytes > 256*mib)
}

func near(got, want, slack uint64) bool { return got+slack >= want && got <= want+slack }
