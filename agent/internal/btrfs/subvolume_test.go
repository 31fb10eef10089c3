package btrfs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

func TestOpen(t *testing.T) {
	f := newFixture(t, testpool.Options{})
	assert.NilError(t, os.MkdirAll(f.path("some", "where"), 0o700))
	inside, err := btrfs.Open(f.path("some", "where"))
	assert.NilError(t, err)
	defer inside.Close()
	again, err := btrfs.OpenFile(inside.File())
	assert.NilError(t, err)
	assert.NilError(t, inside.Close())
	readOnly, err := again.ReadOnly() // through a separate descriptor
	assert.NilError(t, err)
	assert.Assert(t, !readOnly)
	assert.NilError(t, again.Close())

	assert.Equal(t, inside.FSID(), again.FSID())
	assert.Assert(t, inside.FSID() != uuid.Nil)

	_, err = again.ReadOnly()
	assert.ErrorIs(t, err, os.ErrClosed)
}

func TestOpenRefusesOtherFilesystems(t *testing.T) {
	_, err := btrfs.Open("/proc")
	assert.ErrorIs(t, err, btrfs.ErrNotBtrfs)
	_, err = btrfs.Open(filepath.Join(t.TempDir(), "missing"))
	assert.ErrorIs(t, err, fs.ErrNotExist)
	proc := openDir(t, "/proc")
	_, err = btrfs.Subvolume(proc)
	assert.ErrorIs(t, err, btrfs.ErrNotBtrfs)
	is, err := btrfs.IsSubvolume(proc)
	assert.NilError(t, err)
	assert.Assert(t, !is)
}

func TestCreateSubvolume(t *testing.T) {
	f := newFixture(t, testpool.Options{})
	_, info := f.subvolume("volume")

	assert.Equal(t, info.ParentID, uint64(5))
	assert.Assert(t, info.ID >= 256)
	assert.Assert(t, info.UUID != uuid.Nil)
	assert.Equal(t, info.ParentUUID, uuid.Nil)
	assert.Assert(t, !info.ReadOnly)

	_, other := f.subvolume("other")
	assert.Assert(t, other.ID > info.ID)
	assert.Assert(t, other.UUID != info.UUID)
}

func TestNames(t *testing.T) {
	f := newFixture(t, testpool.Options{})
	source, _ := f.subvolume("volume")
	longest := strings.Repeat("x", 255)
	for name, want := range map[string]error{
		"volume":      unix.EEXIST,
		"":            unix.EINVAL,
		".":           unix.EINVAL,
		"..":          unix.EINVAL,
		"a/b":         unix.EINVAL,
		"a\x00b":      unix.EINVAL,
		longest + "x": unix.ENAMETOOLONG,
		longest:       nil,
	} {
		t.Run(fmt.Sprintf("%.10q", name), func(t *testing.T) {
			assert.Assert(t, errors.Is(btrfs.CreateSubvolume(f.dir, name), want))
			if want == nil {
				assert.NilError(t, btrfs.DestroySubvolume(f.dir, name))
			}
			assert.Assert(t, errors.Is(btrfs.Snapshot(source, f.dir, name, false), want))
		})
	}
	for _, name := range []string{"", ".", "..", "volume/.", "../volume"} {
		assert.ErrorType(t, btrfs.DestroySubvolume(f.dir, name), isErrno(unix.EINVAL))
	}
}

func TestErrorSaysWhatWasTried(t *testing.T) {
	f := newFixture(t, testpool.Options{})
	err := btrfs.DestroySubvolume(f.dir, "volume")
	var failure *btrfs.Error
	assert.Assert(t, errors.As(err, &failure))
	assert.Equal(t, failure.Op, "destroy subvolume")
	assert.Equal(t, failure.Target, "volume")
	assert.Error(t, err, "btrfs destroy subvolume volume: no such file or directory")
}

func TestSnapshot(t *testing.T) {
	f := newFixture(t, testpool.Options{})
	source, sourceInfo := f.subvolume("source")
	assert.NilError(t, os.WriteFile(f.path("source", "file"), []byte("before"), 0o600)) // not flushed
	assert.NilError(t, btrfs.CreateSubvolume(source, "nested"))

	assert.NilError(t, btrfs.Snapshot(source, f.dir, "readonly", true))
	assert.NilError(t, btrfs.Snapshot(source, f.dir, "writable", false))
	assert.NilError(t, os.WriteFile(f.path("source", "file"), []byte("after"), 0o600))

	for name, readOnly := range map[string]bool{"readonly": true, "writable": false} {
		_, info := f.opened(name)
		assert.Equal(t, info.ReadOnly, readOnly)
		assert.Equal(t, info.ParentUUID, sourceInfo.UUID)
		content, err := os.ReadFile(f.path(name, "file"))
		assert.NilError(t, err)
		assert.Equal(t, string(content), "before")

		inTheWay := openDir(t, f.path(name, "nested")) // an empty directory
		is, err := btrfs.IsSubvolume(inTheWay)
		assert.NilError(t, err)
		assert.Assert(t, !is)
	}
	assert.ErrorIs(t, os.WriteFile(f.path("readonly", "new"), nil, 0o600), unix.EROFS)
	assert.NilError(t, os.WriteFile(f.path("writable", "new"), nil, 0o600))
}

func TestSnapshotRefusesWhatIsNoSubvolume(t *testing.T) {
	f := newFixture(t, testpool.Options{})
	assert.NilError(t, os.Mkdir(f.path("directory"), 0o700))
	directory := openDir(t, f.path("directory"))
	assert.ErrorIs(t, btrfs.Snapshot(directory, f.dir, "snapshot", false), btrfs.ErrNotSubvolume)
	assert.ErrorIs(t, btrfs.SetReadOnly(directory, true), btrfs.ErrNotSubvolume)
	_, err := btrfs.Subvolume(directory)
	assert.ErrorIs(t, err, btrfs.ErrNotSubvolume)
	info, err := btrfs.ContainingSubvolume(directory)
	assert.NilError(t, err)
	assert.Equal(t, info.ID, uint64(5))

	elsewhere := newFixture(t, testpool.Options{})
	source, _ := f.subvolume("volume")
	assert.ErrorIs(t, btrfs.Snapshot(source, elsewhere.dir, "snapshot", false), unix.EXDEV)
}

func TestSetReadOnly(t *testing.T) {
	f := newFixture(t, testpool.Options{})
	volume, _ := f.subvolume("volume")
	for range 2 { // the second call is no error
		assert.NilError(t, btrfs.SetReadOnly(volume, true))
		assert.ErrorIs(t, os.WriteFile(f.path("volume", "file"), nil, 0o600), unix.EROFS)
	}
	info, err := btrfs.Subvolume(volume)
	assert.NilError(t, err)
	assert.Assert(t, info.ReadOnly)
	assert.NilError(t, btrfs.SetReadOnly(volume, false))
	assert.NilError(t, os.WriteFile(f.path("volume", "file"), nil, 0o600))
}

func TestConcurrentSnapshots(t *testing.T) {
	f := newFixture(t, testpool.Options{Quota: btrfs.QuotaFull})
	const clients, each = 8, 10
	source, sourceInfo := f.subvolume("source")
	var group errgroup.Group
	for client := range clients {
		group.Go(func() error {
			for i := range each {
				if err := btrfs.Snapshot(source, f.dir, fmt.Sprintf("s-%d-%d", client, i), i%2 == 0); err != nil {
					return err
				}
			}
			return nil
		})
	}
	assert.NilError(t, group.Wait())
	subvolumes := testpool.Subvolumes(t, f.pool.Dir)
	assert.Equal(t, len(subvolumes), 1+clients*each)
	ids := map[uint64]bool{}
	for _, subvolume := range subvolumes {
		ids[subvolume.ID] = true
		assert.Assert(t, subvolume.ID == sourceInfo.ID || subvolume.ParentUUID == sourceInfo.UUID)
	}
	assert.Equal(t, len(ids), 1+clients*each)
	status, err := f.Quota()
	assert.NilError(t, err)
	assert.Assert(t, !status.Inconsistent)
}

// Several clients create the same name, and exactly one of them succeeds.
func TestConcurrentCreationsOfOneName(t *testing.T) {
	f := newFixture(t, testpool.Options{})
	const clients = 8
	results := make(chan error, clients)
	for range clients {
		go func() { results <- btrfs.CreateSubvolume(f.dir, "volume") }()
	}
	made := 0
	for range clients {
		if err := <-results; err == nil {
			made++
		} else {
			assert.ErrorIs(t, err, unix.EEXIST)
		}
	}
	assert.Equal(t, made, 1)
}
