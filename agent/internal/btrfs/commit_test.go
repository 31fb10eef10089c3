package btrfs_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

// rarely keeps the kernel from committing on a timer during a test.
const rarely = "commit=300"

// After a power cut, all that Commit covers is there, and no later change is.
func TestCommitMakesTreeChangesDurable(t *testing.T) {
	f := newFixture(t, testpool.Options{MountOptions: rarely, Quota: btrfs.QuotaFull})
	_, info := f.subvolume("volume")
	f.subvolume("destroyed")
	assert.NilError(t, os.WriteFile(f.path("staging"), nil, 0o600))
	assert.NilError(t, os.WriteFile(f.path("delayed"), make([]byte, 100_000), 0o600))
	f.commit()

	volume := openDir(t, f.path("volume"))
	assert.NilError(t, f.SetLimit(info.ID, 10*mib))
	assert.NilError(t, os.Rename(f.path("staging"), f.path("published")))
	assert.NilError(t, btrfs.DestroySubvolume(f.dir, "destroyed"))
	assert.NilError(t, btrfs.SetCompression(volume, "zstd"))
	assert.NilError(t, os.Chmod(f.path("volume"), 0o2770))
	f.commit()
	f.subvolume("later")

	cut := f.powerCut()
	qgroup, err := cut.Qgroup(info.ID)
	assert.NilError(t, err)
	assert.Equal(t, qgroup.MaxReferenced, uint64(10*mib))
	compression, err := btrfs.Compression(openDir(t, cut.path("volume")))
	assert.NilError(t, err)
	assert.Equal(t, compression, "zstd")
	assert.Equal(t, cut.stat("volume").Mode().Perm(), os.FileMode(0o770))
	cut.stat("published")
	for _, gone := range []string{"staging", "destroyed", "later"} {
		_, err := os.Lstat(cut.path(gone))
		assert.Assert(t, os.IsNotExist(err), gone)
	}
	// Commit does not cover file data: the file is there, and its data is not.
	assert.Equal(t, cut.stat("delayed").Size(), int64(0))
}

func TestSnapshotMakesTreeChangesDurable(t *testing.T) {
	f := newFixture(t, testpool.Options{MountOptions: rarely})
	source, _ := f.subvolume("source")
	assert.NilError(t, os.WriteFile(f.path("source", "file"), []byte("content"), 0o600)) // not flushed
	assert.NilError(t, btrfs.Snapshot(source, f.dir, "snapshot", true))
	cut := f.powerCut()
	content, err := os.ReadFile(cut.path("snapshot", "file"))
	assert.NilError(t, err)
	assert.Equal(t, string(content), "content")
}

// Many callers commit at the same time. Each one finds its change durable.
func TestConcurrentCommits(t *testing.T) {
	f := newFixture(t, testpool.Options{MountOptions: rarely})
	before := testpool.Commits(t, f.FSID())
	const clients, each = 16, 10
	var group errgroup.Group
	for client := range clients {
		group.Go(func() error {
			for i := range each {
				if err := btrfs.CreateSubvolume(f.dir, fmt.Sprintf("volume-%d-%d", client, i)); err != nil {
					return err
				}
				if err := f.Commit(context.Background()); err != nil {
					return err
				}
			}
			return nil
		})
	}
	assert.NilError(t, group.Wait())
	after := testpool.Commits(t, f.FSID())
	assert.Assert(t, after-before < clients*each,
		"%d commits for %d calls: none was shared", after-before, clients*each)
	entries, err := os.ReadDir(f.powerCut().pool.Dir)
	assert.NilError(t, err)
	assert.Equal(t, len(entries), clients*each)
}

// In most runs of this test, a single START_SYNC loses its wake-up and waits for the commit
// interval.
func TestCommitIsNotHeldUp(t *testing.T) {
	f := newFixture(t, testpool.Options{MountOptions: rarely})
	const clients, each, most = 16, 100, 2 * time.Minute // the commit interval is 5 minutes
	var group errgroup.Group
	for client := range clients {
		group.Go(func() error {
			fs, err := btrfs.Open(f.pool.Dir) // a separate FS per client, so that only the kernel shares commits
			if err != nil {
				return err
			}
			defer fs.Close()
			for i := range each {
				if err := btrfs.CreateSubvolume(fs.File(), fmt.Sprintf("volume-%d-%d", client, i)); err != nil {
					return err
				}
				begin := time.Now()
				if err := fs.Commit(context.Background()); err != nil {
					return err
				}
				if took := time.Since(begin); took > most {
					return fmt.Errorf("commit %d of client %d took %v", i, client, took)
				}
			}
			return nil
		})
	}
	assert.NilError(t, group.Wait())
}

// The kernel may delay a late nudge like a commit. It would then keep the filesystem mounted for
// the commit interval.
func TestLateNudgesEnd(t *testing.T) {
	var waiting atomic.Int32
	nudges := 0
	waiting.Store(1)
	btrfs.EndNudges(&waiting, func() {
		if nudges++; nudges == 3 {
			waiting.Store(0)
		}
	})
	assert.Equal(t, nudges, 3)

	waiting.Store(1)
	btrfs.EndNudges(&waiting, func() {}) // the nudges of a filesystem that hangs
	assert.Equal(t, waiting.Load(), int32(1))
}

func TestCommitOfNothing(t *testing.T) {
	f := newFixture(t, testpool.Options{MountOptions: rarely})
	f.commit()
	before := testpool.Commits(t, f.FSID())
	f.commit()
	after := testpool.Commits(t, f.FSID())
	assert.Equal(t, after, before)
}

func TestCommitGivesUp(t *testing.T) {
	f := newFixture(t, testpool.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.ErrorIs(t, f.Commit(ctx), context.Canceled)
}

func TestCommitOnReadOnlyFilesystem(t *testing.T) {
	f := newFixture(t, testpool.Options{})
	command(t, "mount", "-o", "remount,ro", f.pool.Dir)
	readOnly, err := f.ReadOnly()
	assert.NilError(t, err)
	assert.Assert(t, readOnly)
	assert.ErrorIs(t, f.Commit(t.Context()), unix.EROFS)
	assert.ErrorIs(t, btrfs.CreateSubvolume(f.dir, "volume"), unix.EROFS)
}

// Commit must fail when the device stops accepting writes. The image is on a tmpfs that fills up.
func TestCommitReportsAbort(t *testing.T) {
	host := t.TempDir()
	command(t, "mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", host)
	t.Cleanup(func() { assert.Check(t, unix.Unmount(host, 0)) })
	t.Setenv("TMPDIR", host)
	t.Run("on a full host", func(t *testing.T) { // a subtest has its temporary directory there
		f := newFixture(t, testpool.Options{SizeBytes: 512 * mib, MountOptions: rarely})
		assert.ErrorType(t, f.writeUntilItFails(), isAborted)
		readOnly, err := f.ReadOnly()
		assert.NilError(t, err)
		assert.Assert(t, readOnly)
		assert.ErrorType(t, f.Commit(t.Context()), isAborted)
	})
}

// writeUntilItFails creates files with xattrs, which are metadata, and commits until that fails.
func (f *fixture) writeUntilItFails() error {
	const enough = 20_000 // files of 3000 bytes, stored twice because of DUP
	value := make([]byte, 3000)
	for i := range enough {
		path := f.path(fmt.Sprintf("file%d", i))
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			return err
		}
		if err := unix.Setxattr(path, "user.value", value, 0); err != nil {
			return err
		}
		if i%100 == 99 {
			if err := f.Commit(f.t.Context()); err != nil {
				return err
			}
		}
	}
	return nil
}

func isAborted(err error) bool { return errors.Is(err, unix.EROFS) || errors.Is(err, unix.EIO) }

// powerCut opens the filesystem as a power cut at this moment would leave it.
func (f *fixture) powerCut() *fixture {
	f.t.Helper()
	cut := &fixture{t: f.t, pool: f.pool.Copy()}
	cut.open()
	f.t.Cleanup(cut.close)
	return cut
}

func (f *fixture) stat(name string) os.FileInfo {
	f.t.Helper()
	info, err := os.Lstat(f.path(name))
	assert.NilError(f.t, err)
	return info
}
