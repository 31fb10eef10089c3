//go:build lab

package nfsmount_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/test/mounttest"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/mountoptions"
)

// superOptions returns the kernel's form of the mount options.
func superOptions(t *testing.T, dir string) string {
	t.Helper()
	infos, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(dir))
	assert.NilError(t, err)
	assert.Equal(t, len(infos), 1)
	return "," + infos[0].VFSOptions + ","
}

func place(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	assert.NilError(t, err)
	return filepath.Join(dir, "data")
}

func TestIPv6(t *testing.T) {
	b := mounttest.New(t).(*mounttest.NFS)
	source, data := b.NewVolume6(t), place(t)
	assert.Assert(t, strings.HasPrefix(source.String(), "[fd77::"))
	for range 2 {
		assert.NilError(t, b.Mounter().Mount(t.Context(), source, data, b.Options()))
	}
	p, err := b.Mounter().Volume(t.Context(), data)
	assert.NilError(t, err)
	assert.Equal(t, p.Source, source.String())
	assert.NilError(t, os.WriteFile(filepath.Join(data, "f"), []byte("x"), 0o644))
	assert.NilError(t, b.Mounter().Unmount(t.Context(), data))
}

func TestOptionsReachTheKernel(t *testing.T) {
	b := mounttest.New(t)
	for _, c := range []struct {
		options []string
		want    []string
	}{
		{nil, []string{"vers=4.2", "hard"}},
		{[]string{"vers=4.1", "soft", "timeo=50"}, []string{"vers=4.1", "soft", "timeo=50"}},
		{[]string{"ro", "actimeo=3"}, []string{"ro", "vers=4.2"}},
	} {
		options, err := mountoptions.Merge(b.Options(), c.options)
		assert.NilError(t, err)
		data := place(t)
		assert.NilError(t, b.Mounter().Mount(t.Context(), b.NewVolume(t), data, options))
		got := superOptions(t, data)
		for _, option := range c.want {
			assert.Assert(t, strings.Contains(got, ","+option+","), "%v in %v", option, got)
		}
		assert.NilError(t, b.Mounter().Unmount(t.Context(), data))
	}
}

func TestAReadOnlyMountCanOnlyBeBoundReadOnly(t *testing.T) {
	b := mounttest.New(t)
	options, err := mountoptions.Merge(b.Options(), []string{"ro"})
	assert.NilError(t, err)
	data := place(t)
	target := filepath.Join(filepath.Dir(data), "target")
	assert.NilError(t, b.Mounter().Mount(t.Context(), b.NewVolume(t), data, options))
	for range 2 {
		assert.NilError(t, b.Mounter().Bind(t.Context(), data, target, false))
	}
	assert.ErrorIs(t, os.WriteFile(filepath.Join(target, "f"), nil, 0o644), unix.EROFS)
	assert.NilError(t, b.Mounter().Unbind(t.Context(), target))
	assert.NilError(t, b.Mounter().Unmount(t.Context(), data))
}

// Data that a process wrote and left in memory when it died is on the server when unmounting
// returns. Only then does the server revoke this node's access.
func TestUnmountWritesBackFirst(t *testing.T) {
	b := mounttest.New(t)
	source, data := b.NewVolume(t), place(t)
	assert.NilError(t, b.Mounter().Mount(t.Context(), source, data, b.Options()))
	content := []byte(strings.Repeat("x", 1<<20))
	f, err := os.Create(filepath.Join(data, "f"))
	assert.NilError(t, err)
	assert.NilError(t, f.Truncate(int64(len(content))))
	mapped, err := unix.Mmap(int(f.Fd()), 0, len(content), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	assert.NilError(t, err)
	copy(mapped, content)
	defer func() {
		assert.NilError(t, unix.Munmap(mapped))
		assert.NilError(t, f.Close())
	}()
	assert.NilError(t, b.Mounter().Unmount(t.Context(), data), "with the process still inside")
	got, err := os.ReadFile(filepath.Join(source.Path, "f")) // on the server's filesystem
	assert.NilError(t, err)
	assert.Equal(t, string(got), string(content))
}

// A client with a delegation of the directory need not ask the server for its attributes. Linux 7
// gets one when it lists a directory that has a file. The driver still notices that the server or
// the export is gone.
func TestADelegationHidesNothing(t *testing.T) {
	b := mounttest.New(t)
	f, data := b.NewFragile(t), place(t)
	assert.NilError(t, b.Mounter().Mount(t.Context(), f.Source, data, b.Options()))
	use := func() {
		assert.NilError(t, os.WriteFile(filepath.Join(data, "f"), []byte("x"), 0o644))
		_, err := os.ReadFile(filepath.Join(data, "f"))
		assert.NilError(t, err)
		entries, err := os.ReadDir(data)
		assert.NilError(t, err)
		for _, e := range entries {
			_, err := e.Info()
			assert.NilError(t, err)
		}
	}
	use()
	f.Silence()
	t.Logf("with the server silent, statx by itself: %v", statx(t, data))
	assert.ErrorIs(t, b.Mounter().Check(t.Context(), data), nfsmount.ErrUnresponsive)
	f.Revive()
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if err := b.Mounter().Check(t.Context(), data); err != nil {
			return poll.Continue("%v", err)
		}
		return poll.Success()
	}, poll.WithTimeout(90*time.Second)) // an NFS client retransmits after at most 60 s
	use()
	f.Revoke()
	t.Logf("without the export, statx by itself: %v", statx(t, data))
	assert.ErrorIs(t, b.Mounter().Check(t.Context(), data), nfsmount.ErrStale)
	f.Restore()
	assert.NilError(t, b.Mounter().Unmount(t.Context(), data))
}

// An export that ends and begins again has another file system ID. Mounts from before stay stale,
// and a mount made after it is another filesystem with the same files.
func TestMountsOfTwoAttachments(t *testing.T) {
	b := mounttest.New(t)
	f, before := b.NewFragile(t), place(t)
	after := filepath.Join(filepath.Dir(before), "after")
	assert.NilError(t, b.Mounter().Mount(t.Context(), f.Source, before, b.Options()))
	open, err := os.Create(filepath.Join(before, "f"))
	assert.NilError(t, err)
	_, err = open.WriteString("kept")
	assert.NilError(t, err)
	assert.NilError(t, open.Sync())
	var old, dir unix.Stat_t
	assert.NilError(t, unix.Fstat(int(open.Fd()), &old))

	f.Revoke()
	f.Restore()
	assert.NilError(t, b.Mounter().Mount(t.Context(), f.Source, after, b.Options()))
	content, err := os.ReadFile(filepath.Join(after, "f"))
	assert.NilError(t, err)
	assert.Equal(t, string(content), "kept")
	for range 2 {
		assert.ErrorIs(t, b.Mounter().Check(t.Context(), before), nfsmount.ErrStale)
		_, err = open.WriteString("late")
		assert.Assert(t, err != nil || open.Sync() != nil)
	}
	var renewed unix.Stat_t
	assert.NilError(t, unix.Stat(filepath.Join(after, "f"), &renewed))
	assert.NilError(t, unix.Stat(after, &dir))
	assert.Equal(t, renewed.Ino, old.Ino)
	assert.Assert(t, renewed.Dev != old.Dev)
	assert.Equal(t, renewed.Dev, dir.Dev)
	_ = open.Close() // may repeat the error of the late write
	for _, mounted := range []string{before, after} {
		assert.NilError(t, b.Mounter().Unmount(t.Context(), mounted))
	}
}

// statx asks the server, for at most a second.
func statx(t *testing.T, dir string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := nfsmount.Bounded(ctx, func() (struct{}, error) {
		var answer unix.Statx_t
		return struct{}{}, unix.Statx(unix.AT_FDCWD, dir, unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS, &answer)
	}, nil)
	return err
}

// The worst case: dirty pages that no server accepts, a process that waits for it, and the volume
// at two mount points.
func TestUnmountingWithDirtyPagesAndADeadServer(t *testing.T) {
	b := mounttest.New(t)
	f, data := b.NewFragile(t), place(t)
	target := filepath.Join(filepath.Dir(data), "target")
	assert.NilError(t, b.Mounter().Mount(t.Context(), f.Source, data, b.Options()))
	assert.NilError(t, b.Mounter().Bind(t.Context(), data, target, false))
	inside, err := os.Create(filepath.Join(target, "f"))
	assert.NilError(t, err)
	f.Silence()
	_, err = inside.Write(make([]byte, 4<<20))
	assert.NilError(t, err)
	synced := make(chan error, 1)
	go func() { synced <- inside.Sync() }()

	for _, unmount := range []func() error{
		func() error { return b.Mounter().Unbind(t.Context(), target) },
		func() error { return b.Mounter().Unmount(t.Context(), data) },
		func() error { return b.Mounter().Unmount(t.Context(), data) },
	} {
		begin := time.Now()
		assert.NilError(t, unmount())
		assert.Assert(t, time.Since(begin) < mounttest.Patience(b), "took %v", time.Since(begin))
	}
	_, err = os.Lstat(data)
	assert.ErrorIs(t, err, os.ErrNotExist)

	f.Revive()
	select {
	case err := <-synced: // fails or not: its requests were forced to fail
		t.Logf("fsync after the server came back: %v", err)
	case <-time.After(2 * time.Minute):
		t.Error("the process inside hangs for ever")
	}
	_ = inside.Close() // may repeat that error
	assert.NilError(t, b.Mounter().Mount(t.Context(), f.Source, data, b.Options()))
	assert.NilError(t, os.WriteFile(filepath.Join(data, "g"), []byte("x"), 0o644))
	assert.NilError(t, b.Mounter().Unmount(t.Context(), data))
}
