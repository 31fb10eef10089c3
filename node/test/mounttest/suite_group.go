package mounttest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
)

// tree creates a volume with all kinds of entries. A symbolic link in it leads to a file outside.
func tree(t *testing.T, b Backend) (data, outside string) {
	t.Helper()
	data, dir, _ := mounted(t, b)
	outside = filepath.Join(dir, "outside")
	write(t, outside, "not part of the volume")
	assert.NilError(t, os.Chmod(outside, 0o600))
	assert.NilError(t, os.MkdirAll(filepath.Join(data, "a", "b"), 0o700))
	for i := range 20 {
		write(t, filepath.Join(data, "a", "b", fmt.Sprintf("f%d", i)), "x")
	}
	assert.NilError(t, os.Chmod(filepath.Join(data, "a", "b", "f0"), 0o400))
	assert.NilError(t, unix.Chmod(filepath.Join(data, "a", "b", "f1"), 0o4755))
	assert.NilError(t, os.Symlink(outside, filepath.Join(data, "a", "link")))
	assert.NilError(t, os.Symlink(dir, filepath.Join(data, "a", "dirlink")))
	assert.NilError(t, unix.Mkfifo(filepath.Join(data, "a", "fifo"), 0o600))
	return data, outside
}

func ownership(t *testing.T, path string) (gid, mode uint32) {
	t.Helper()
	var s unix.Stat_t
	assert.NilError(t, unix.Lstat(path, &s))
	return s.Gid, s.Mode & 0o7777
}

func groupChangesContent(t *testing.T, b Backend) {
	data, outside := tree(t, b)
	assert.NilError(t, b.Mounter().SetGroup(t.Context(), data, "pod", 2345))
	for path, want := range map[string]uint32{
		"": 0o2070, "a": 0o2770, "a/b": 0o2770, "a/b/f0": 0o460, "a/b/f1": 0o4775, "a/b/f19": 0o664, "a/fifo": 0o660, "a/link": 0, "a/dirlink": 0,
	} {
		gid, mode := ownership(t, filepath.Join(data, path))
		assert.Equal(t, gid, uint32(2345), path)
		assert.Equal(t, mode&want, want, "%s has mode %o", path, mode)
	}
	gid, mode := ownership(t, outside)
	assert.Equal(t, gid, uint32(0))
	assert.Equal(t, mode, uint32(0o600))
	gid, _ = ownership(t, filepath.Dir(outside))
	assert.Equal(t, gid, uint32(0))
	// New files belong to the group.
	write(t, filepath.Join(data, "a", "new"), "x")
	gid, _ = ownership(t, filepath.Join(data, "a", "new"))
	assert.Equal(t, gid, uint32(2345))
}

func groupSkipsWhenRootMatches(t *testing.T, b Backend) {
	data, _ := tree(t, b)
	assert.NilError(t, b.Mounter().SetGroup(t.Context(), data, "pod", 2345))
	foreign := filepath.Join(data, "a", "b", "f2")
	assert.NilError(t, os.Chown(foreign, 0, 77))
	assert.NilError(t, b.Mounter().SetGroup(t.Context(), data, "pod", 2345))
	gid, _ := ownership(t, foreign)
	assert.Equal(t, gid, uint32(77), "not looked at")
	assert.NilError(t, os.Chmod(data, 0o755))
	assert.NilError(t, b.Mounter().SetGroup(t.Context(), data, "pod", 2345))
	gid, _ = ownership(t, foreign)
	assert.Equal(t, gid, uint32(2345), "looked at, as the root did not match")
}

func groupGoesOn(t *testing.T, b Backend) {
	data, _ := tree(t, b)
	over, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("the caller's time is over")
	cancel(reason)
	assert.ErrorIs(t, b.Mounter().SetGroup(over, data, "pod", 2345), reason)
	gid, _ := ownership(t, data)
	assert.Equal(t, gid, uint32(0), "the root is last")
	assert.NilError(t, b.Mounter().SetGroup(t.Context(), data, "pod", 2345))
	gid, _ = ownership(t, data)
	assert.Equal(t, gid, uint32(2345))
}

// hurried does not wait for a group.
func hurried(b Backend) *nfsmount.Mounter {
	limits := b.Limits()
	limits.Group = time.Nanosecond
	return nfsmount.NewFor(b.Filesystem(), limits, slog.New(slog.DiscardHandler))
}

func groupGoesOnByItself(t *testing.T, b Backend) {
	data, _ := tree(t, b)
	m := hurried(b)
	assert.ErrorIs(t, m.SetGroup(t.Context(), data, "pod", 2345), context.DeadlineExceeded)
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if gid, _ := ownership(t, data); gid != 2345 {
			return poll.Continue("the root has group %d", gid)
		}
		return poll.Success()
	}, poll.WithTimeout(Patience(b)))
	gid, _ := ownership(t, filepath.Join(data, "a", "b", "f19"))
	assert.Equal(t, gid, uint32(2345))
}

func groupTellsItsError(t *testing.T, b Backend) {
	dir := place(t)
	data := filepath.Join(dir, "data")
	assert.NilError(t, b.Mounter().Mount(t.Context(), b.NewVolume(t), data, append(b.Options(), "ro")))
	assert.ErrorIs(t, b.Mounter().SetGroup(t.Context(), data, "pod", 2345), unix.EROFS)
	m := hurried(b)
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if err := m.SetGroup(t.Context(), data, "pod", 2345); !errors.Is(err, unix.EROFS) {
			return poll.Continue("%v", err)
		}
		return poll.Success()
	}, poll.WithTimeout(Patience(b)))
	assert.NilError(t, m.Unmount(t.Context(), data))
}

func groupAfterAnother(t *testing.T, b Backend) {
	data, _ := tree(t, b)
	var wait sync.WaitGroup
	for gid := range uint32(5) {
		wait.Go(func() { assert.Check(t, b.Mounter().SetGroup(t.Context(), data, "pod", 2000+gid)) })
	}
	wait.Wait()
	assert.NilError(t, b.Mounter().SetGroup(t.Context(), data, "pod", 2345))
	for _, path := range []string{"", "a/b", "a/b/f7"} {
		gid, _ := ownership(t, filepath.Join(data, path))
		assert.Equal(t, gid, uint32(2345), path)
	}
}

func groupOnSilentServer(t *testing.T, b Backend) {
	data, _, f := mountedFragile(t, b)
	limits := b.Limits()
	limits.Group = limits.Stat / 10
	m := nfsmount.NewFor(b.Filesystem(), limits, slog.New(slog.DiscardHandler))
	f.Silence()
	before := runtime.NumGoroutine()
	for range 20 {
		assert.ErrorIs(t, within(t, Patience(b), func() error { return m.SetGroup(t.Context(), data, "pod", 2345) }), context.DeadlineExceeded)
	}
	assert.Assert(t, runtime.NumGoroutine() < before+10, "each call left a goroutine")
	assert.NilError(t, within(t, Patience(b), func() error { return m.Unmount(t.Context(), data) }))
	f.Revive()
}

func groupOfLocalDisk(t *testing.T, b Backend) {
	dir := place(t)
	assert.ErrorIs(t, b.Mounter().SetGroup(t.Context(), dir, "pod", 2345), nfsmount.ErrNotMounted)
	gid, _ := ownership(t, dir)
	assert.Equal(t, gid, uint32(0))
}
