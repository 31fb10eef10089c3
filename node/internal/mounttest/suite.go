package mounttest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
)

// Suite is the behaviour of a nfsmount.Mounter on any volume filesystem.
func Suite(t *testing.T, b Backend) {
	for name, test := range map[string]func(*testing.T, Backend){
		"mount is idempotent":                                            mountIsIdempotent,
		"mount takes an empty directory that a reboot left":              mountOverLeftovers,
		"mount refuses files, links and content":                         mountRefusesHostileDirs,
		"mount refuses a place that another volume has":                  mountConflict,
		"mount that fails leaves nothing":                                mountFailure,
		"mount replaces a stale mount":                                   mountReplacesStale,
		"mount keeps a stale mount that it cannot replace":               mountKeepsWhatItCannotReplace,
		"paths may hold blanks, backslashes and other scripts":           oddPaths,
		"paths may lead through links":                                   linkedParents,
		"bind shows the volume, read-write and read-only":                bindShowsTheVolume,
		"bind refuses what is not mounted":                               bindRefusesLocalDisk,
		"bind refuses files, links and content":                          bindRefusesHostileTargets,
		"bind refuses a target that is another mount":                    bindConflict,
		"bind replaces a stale target":                                   bindReplacesStale,
		"unbind and unmount are idempotent and remove empty directories": unmountIsIdempotent,
		"unbind and unmount never delete data":                           unmountSparesData,
		"unbind detaches with a process still inside":                    unbindWhileBusy,
		"unmount detaches with a process still inside":                   unmountWhileBusy,
		"unmount takes mounts that lie on each other":                    unmountStack,
		"others are whole mounts elsewhere":                              others,
		"check and capacity ask the server":                              checkAndCapacity,
		"a silent server hangs no call":                                  silentServer,
		"a silent server is asked once, not again and again":             silentServerIsAskedOnce,
		"a silent server does not stop unmounting":                       silentServerUnmount,
		"a mount on a silent server ends with its deadline":              silentServerMount,
		"group: content first, root last, links not followed":            groupChangesContent,
		"group: nothing is walked when the root matches":                 groupSkipsWhenRootMatches,
		"group: goes on after a deadline":                                groupGoesOn,
	} {
		t.Run(name, func(t *testing.T) { test(t, b) })
	}
}

// place is a directory for mounts on local disk. Whatever is mounted below is detached at the end.
func place(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	assert.NilError(t, err)
	t.Cleanup(func() {
		for _, p := range slices.Backward(mountsBelow(t, dir)) {
			assert.NilError(t, unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW))
		}
	})
	return dir
}

func mountsBelow(t *testing.T, dir string) []string {
	t.Helper()
	infos, err := mountinfo.GetMounts(nil)
	assert.NilError(t, err)
	var below []string
	for _, info := range infos {
		if strings.HasPrefix(info.Mountpoint, dir+"/") {
			below = append(below, info.Mountpoint)
		}
	}
	return below
}

// mounted is a new volume, mounted at dir/staging/data.
func mounted(t *testing.T, b Backend) (data, dir string, source nfsmount.Source) {
	t.Helper()
	dir, source = place(t), b.NewVolume(t)
	data = filepath.Join(dir, "staging", "data")
	assert.NilError(t, b.Mounter().Mount(t.Context(), source, data, b.Options()))
	return data, dir, source
}

func mountedFragile(t *testing.T, b Backend) (data, dir string, f Fragile) {
	t.Helper()
	f = b.NewFragile(t)
	dir = place(t)
	data = filepath.Join(dir, "staging", "data")
	assert.NilError(t, b.Mounter().Mount(t.Context(), f.Source, data, b.Options()))
	return data, dir, f
}

func layers(t *testing.T, dir string) int {
	t.Helper()
	count := 0
	for _, p := range mountsBelow(t, filepath.Dir(dir)) {
		if p == dir {
			count++
		}
	}
	return count
}

func write(t *testing.T, path, content string) {
	t.Helper()
	assert.NilError(t, os.WriteFile(path, []byte(content), 0o644))
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	assert.NilError(t, err)
	return string(content)
}

func gone(t *testing.T, path string) {
	t.Helper()
	_, err := os.Lstat(path)
	assert.ErrorIs(t, err, os.ErrNotExist)
}

// within fails when f takes longer, and does not wait for it for ever.
func within(t *testing.T, limit time.Duration, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(limit):
		t.Fatalf("not done within %v", limit)
		return nil
	}
}

func mountIsIdempotent(t *testing.T, b Backend) {
	data, _, source := mounted(t, b)
	write(t, filepath.Join(data, "f"), "x")
	for range 3 {
		assert.NilError(t, b.Mounter().Mount(t.Context(), source, data, b.Options()))
	}
	assert.Equal(t, layers(t, data), 1)
	assert.Equal(t, read(t, filepath.Join(data, "f")), "x")
	p, err := b.Mounter().Volume(t.Context(), data)
	assert.NilError(t, err)
	assert.Equal(t, p.Source, source.String())
	assert.Equal(t, p.ReadOnly, false)
}

func mountOverLeftovers(t *testing.T, b Backend) {
	data := filepath.Join(place(t), "data")
	assert.NilError(t, os.Mkdir(data, 0o755))
	_, err := b.Mounter().Volume(t.Context(), data)
	assert.ErrorIs(t, err, nfsmount.ErrNotMounted)
	assert.NilError(t, b.Mounter().Mount(t.Context(), b.NewVolume(t), data, b.Options()))
	assert.Equal(t, layers(t, data), 1)
}

// hostile are paths in dir that must not be mounted on, and a check that they are as they were.
func hostile(t *testing.T, dir string) (paths map[string]string, untouched func()) {
	t.Helper()
	elsewhere := filepath.Join(dir, "elsewhere")
	assert.NilError(t, os.Mkdir(elsewhere, 0o755))
	file, link, full := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "full")
	write(t, file, "kept")
	assert.NilError(t, os.Symlink(elsewhere, link))
	assert.NilError(t, os.Mkdir(full, 0o755))
	write(t, filepath.Join(full, "f"), "kept")
	broken := filepath.Join(dir, "broken")
	assert.NilError(t, os.Symlink("/nowhere/at/all", broken))
	return map[string]string{"file": file, "link": link, "full": full, "broken": broken}, func() {
		assert.Equal(t, read(t, file), "kept")
		assert.Equal(t, read(t, filepath.Join(full, "f")), "kept")
		for _, l := range []string{link, broken} {
			info, err := os.Lstat(l)
			assert.NilError(t, err)
			assert.Equal(t, info.Mode().Type(), os.ModeSymlink)
		}
		_, err := os.Stat(elsewhere)
		assert.NilError(t, err)
		assert.Equal(t, layers(t, elsewhere), 0)
	}
}

func mountRefusesHostileDirs(t *testing.T, b Backend) {
	paths, untouched := hostile(t, place(t))
	for _, path := range paths {
		assert.ErrorIs(t, b.Mounter().Mount(t.Context(), b.NewVolume(t), path, b.Options()), nfsmount.ErrTarget)
		assert.Equal(t, layers(t, path), 0)
	}
	under := filepath.Join(paths["file"], "data")
	assert.ErrorIs(t, b.Mounter().Mount(t.Context(), b.NewVolume(t), under, b.Options()), nfsmount.ErrTarget)
	untouched()
}

func mountConflict(t *testing.T, b Backend) {
	data, _, source := mounted(t, b)
	write(t, filepath.Join(data, "f"), "first")
	err := b.Mounter().Mount(t.Context(), b.NewVolume(t), data, b.Options())
	assert.ErrorIs(t, err, nfsmount.ErrConflict)
	assert.ErrorContains(t, err, source.String())
	assert.Equal(t, read(t, filepath.Join(data, "f")), "first")
	assert.Equal(t, layers(t, data), 1)
}

func mountFailure(t *testing.T, b Backend) {
	f := b.NewFragile(t)
	f.Revoke()
	data := filepath.Join(place(t), "data")
	err := within(t, Patience(b), func() error { return b.Mounter().Mount(t.Context(), f.Source, data, b.Options()) })
	assert.Assert(t, err != nil)
	assert.ErrorContains(t, err, f.Source.String())
	assert.Equal(t, layers(t, data), 0)
	f.Restore()
	assert.NilError(t, b.Mounter().Mount(t.Context(), f.Source, data, b.Options()))
}

func mountReplacesStale(t *testing.T, b Backend) {
	data, dir, f := mountedFragile(t, b)
	f.Revoke()
	assert.ErrorIs(t, b.Mounter().Check(t.Context(), data), nfsmount.ErrStale)
	f.Restore()
	assert.NilError(t, b.Mounter().Mount(t.Context(), f.Source, data, b.Options()))
	assert.NilError(t, b.Mounter().Check(t.Context(), data))
	assert.Equal(t, len(mountsBelow(t, dir)), 1, "the broken mount and the place beside it are gone")
	p, err := b.Mounter().Volume(t.Context(), data)
	assert.NilError(t, err)
	assert.Equal(t, p.Source, f.Source.String())
	entries, err := os.ReadDir(filepath.Dir(data))
	assert.NilError(t, err)
	assert.Equal(t, len(entries), 1)
}

func mountKeepsWhatItCannotReplace(t *testing.T, b Backend) {
	data, dir, f := mountedFragile(t, b)
	f.Revoke()
	err := within(t, Patience(b), func() error { return b.Mounter().Mount(t.Context(), f.Source, data, b.Options()) })
	assert.Assert(t, err != nil)
	assert.DeepEqual(t, mountsBelow(t, dir), []string{data})
	_, err = b.Mounter().Volume(t.Context(), data)
	assert.NilError(t, err, "the orchestrator takes it for staged, so it stays")
}

func oddPaths(t *testing.T, b Backend) {
	for _, name := range []string{"with blank", `back\slash`, `back\040slash`, "größe-音量", "#hash", "comma,dot.colon:"} {
		dir := filepath.Join(place(t), name)
		data, target := filepath.Join(dir, "data"), filepath.Join(dir, "target")
		assert.NilError(t, b.Mounter().Mount(t.Context(), b.NewVolume(t), data, b.Options()), name)
		assert.NilError(t, b.Mounter().Bind(t.Context(), data, target, true), name)
		assert.NilError(t, b.Mounter().Bind(t.Context(), data, target, true), name)
		assert.NilError(t, b.Mounter().Unbind(t.Context(), target), name)
		assert.NilError(t, b.Mounter().Unmount(t.Context(), data), name)
		gone(t, target)
		gone(t, data)
	}
}

func linkedParents(t *testing.T, b Backend) {
	dir := place(t)
	assert.NilError(t, os.Mkdir(filepath.Join(dir, "real"), 0o755))
	assert.NilError(t, os.Symlink("real", filepath.Join(dir, "linked")))
	linked := filepath.Join(dir, "linked", "staging", "data")
	source := b.NewVolume(t)
	for range 2 {
		assert.NilError(t, b.Mounter().Mount(t.Context(), source, linked, b.Options()))
	}
	assert.Equal(t, layers(t, filepath.Join(dir, "real", "staging", "data")), 1)
	target := filepath.Join(dir, "linked", "target")
	for range 2 {
		assert.NilError(t, b.Mounter().Bind(t.Context(), linked, target, false))
	}
	assert.NilError(t, b.Mounter().Unbind(t.Context(), target))
	assert.NilError(t, b.Mounter().Unmount(t.Context(), linked))
	assert.Equal(t, len(mountsBelow(t, dir)), 0)
}

func bindShowsTheVolume(t *testing.T, b Backend) {
	data, dir, _ := mounted(t, b)
	rw, ro := filepath.Join(dir, "pod", "rw"), filepath.Join(dir, "pod", "ro")
	for range 2 {
		assert.NilError(t, b.Mounter().Bind(t.Context(), data, rw, false))
		assert.NilError(t, b.Mounter().Bind(t.Context(), data, ro, true))
	}
	assert.Equal(t, layers(t, rw), 1)
	assert.Equal(t, layers(t, ro), 1)
	write(t, filepath.Join(rw, "f"), "shared")
	assert.Equal(t, read(t, filepath.Join(ro, "f")), "shared")
	assert.ErrorIs(t, os.WriteFile(filepath.Join(ro, "g"), nil, 0o644), unix.EROFS)
	assert.NilError(t, os.Remove(filepath.Join(rw, "f")))

	assert.ErrorIs(t, b.Mounter().Bind(t.Context(), data, rw, true), nfsmount.ErrConflict)
	assert.ErrorIs(t, b.Mounter().Bind(t.Context(), data, ro, false), nfsmount.ErrConflict)
}

func bindRefusesLocalDisk(t *testing.T, b Backend) {
	dir := place(t)
	data, target := filepath.Join(dir, "data"), filepath.Join(dir, "target")
	assert.ErrorIs(t, b.Mounter().Bind(t.Context(), data, target, false), nfsmount.ErrNotMounted)
	assert.NilError(t, os.Mkdir(data, 0o755)) // as a reboot leaves it
	assert.ErrorIs(t, b.Mounter().Bind(t.Context(), data, target, false), nfsmount.ErrNotMounted)
	// A mount that is no volume is as good as none.
	assert.NilError(t, unix.Mount(dir, data, "", unix.MS_BIND, ""))
	assert.ErrorIs(t, b.Mounter().Bind(t.Context(), data, target, false), nfsmount.ErrNotMounted)
	gone(t, target)
}

func bindRefusesHostileTargets(t *testing.T, b Backend) {
	data, dir, _ := mounted(t, b)
	paths, untouched := hostile(t, dir)
	for _, path := range paths {
		assert.ErrorIs(t, b.Mounter().Bind(t.Context(), data, path, false), nfsmount.ErrTarget)
		assert.Equal(t, layers(t, path), 0)
	}
	untouched()
}

func bindConflict(t *testing.T, b Backend) {
	data, dir, _ := mounted(t, b)
	target := filepath.Join(dir, "target")
	assert.NilError(t, b.Mounter().Mount(t.Context(), b.NewVolume(t), target, b.Options()))
	assert.ErrorIs(t, b.Mounter().Bind(t.Context(), data, target, false), nfsmount.ErrConflict)
	assert.Equal(t, layers(t, target), 1)
}

func bindReplacesStale(t *testing.T, b Backend) {
	data, dir, f := mountedFragile(t, b)
	target := filepath.Join(dir, "target")
	assert.NilError(t, b.Mounter().Bind(t.Context(), data, target, false))
	f.Revoke()
	f.Restore()
	assert.NilError(t, b.Mounter().Mount(t.Context(), f.Source, data, b.Options()))
	assert.NilError(t, b.Mounter().Bind(t.Context(), data, target, false))
	assert.NilError(t, b.Mounter().Check(t.Context(), target))
	assert.Equal(t, layers(t, target), 1)
}

func unmountIsIdempotent(t *testing.T, b Backend) {
	data, dir, _ := mounted(t, b)
	target := filepath.Join(dir, "target")
	assert.NilError(t, b.Mounter().Bind(t.Context(), data, target, false))
	for range 3 {
		assert.NilError(t, b.Mounter().Unbind(t.Context(), target))
		gone(t, target)
	}
	for range 3 {
		assert.NilError(t, b.Mounter().Unmount(t.Context(), data))
	}
	entries, err := os.ReadDir(filepath.Dir(data))
	assert.NilError(t, err)
	assert.Equal(t, len(entries), 0, "the staging directory is empty")
	// Directories without mounts, as a reboot leaves them.
	assert.NilError(t, os.Mkdir(target, 0o755))
	assert.NilError(t, os.Mkdir(data, 0o755))
	assert.NilError(t, b.Mounter().Unbind(t.Context(), target))
	assert.NilError(t, b.Mounter().Unmount(t.Context(), data))
	gone(t, target)
	gone(t, data)
	assert.NilError(t, b.Mounter().Unbind(t.Context(), filepath.Join(dir, "never", "there")))
}

func unmountSparesData(t *testing.T, b Backend) {
	paths, untouched := hostile(t, place(t))
	for _, path := range paths {
		assert.ErrorIs(t, b.Mounter().Unbind(t.Context(), path), nfsmount.ErrTarget)
		assert.ErrorIs(t, b.Mounter().Unmount(t.Context(), path), nfsmount.ErrTarget)
	}
	untouched()

	data, dir, source := mounted(t, b)
	write(t, filepath.Join(data, "f"), "kept")
	target := filepath.Join(dir, "target")
	assert.NilError(t, b.Mounter().Bind(t.Context(), data, target, false))
	assert.NilError(t, b.Mounter().Unbind(t.Context(), target))
	assert.Equal(t, read(t, filepath.Join(data, "f")), "kept")
	_ = source
}

func unbindWhileBusy(t *testing.T, b Backend) {
	data, dir, _ := mounted(t, b)
	target := filepath.Join(dir, "target")
	assert.NilError(t, b.Mounter().Bind(t.Context(), data, target, false))
	inside, err := os.Create(filepath.Join(target, "f"))
	assert.NilError(t, err)
	defer inside.Close()
	assert.NilError(t, within(t, Patience(b), func() error { return b.Mounter().Unbind(t.Context(), target) }))
	gone(t, target)
	_, err = inside.WriteString("still")
	assert.NilError(t, err, "the process inside goes on until it ends")
	assert.NilError(t, inside.Sync())
	assert.Equal(t, read(t, filepath.Join(data, "f")), "still")
}

func unmountWhileBusy(t *testing.T, b Backend) {
	data, _, _ := mounted(t, b)
	inside, err := os.Create(filepath.Join(data, "f"))
	assert.NilError(t, err)
	defer inside.Close()
	assert.NilError(t, within(t, Patience(b), func() error { return b.Mounter().Unmount(t.Context(), data) }))
	gone(t, data)
}

func unmountStack(t *testing.T, b Backend) {
	data, dir, _ := mounted(t, b)
	target := filepath.Join(dir, "target")
	assert.NilError(t, b.Mounter().Bind(t.Context(), data, target, false))
	for range 3 {
		assert.NilError(t, unix.Mount(data, target, "", unix.MS_BIND, ""))
	}
	assert.Equal(t, layers(t, target), 4)
	assert.NilError(t, b.Mounter().Unbind(t.Context(), target))
	gone(t, target)
	assert.Equal(t, layers(t, data), 1)
}

func others(t *testing.T, b Backend) {
	data, dir, _ := mounted(t, b)
	_, _, _ = mounted(t, b)
	find := func(target string) []string {
		t.Helper()
		points, err := b.Mounter().Others(t.Context(), data, target)
		assert.NilError(t, err)
		dirs := make([]string, 0, len(points))
		for _, p := range points {
			dirs = append(dirs, p.Dir)
		}
		return dirs
	}
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	assert.Equal(t, len(find(one)), 0)
	assert.NilError(t, b.Mounter().Bind(t.Context(), data, one, true))
	assert.Equal(t, len(find(one)), 0)
	assert.DeepEqual(t, find(two), []string{one})
	// What kubelet makes for subPath.
	sub, subTarget := filepath.Join(data, "sub"), filepath.Join(dir, "subpath")
	assert.NilError(t, os.Mkdir(sub, 0o755))
	assert.NilError(t, os.Mkdir(subTarget, 0o755))
	assert.NilError(t, unix.Mount(sub, subTarget, "", unix.MS_BIND, ""))
	assert.DeepEqual(t, find(two), []string{one})
	_, err := b.Mounter().Others(t.Context(), two, one)
	assert.ErrorIs(t, err, nfsmount.ErrNotMounted)
}

func checkAndCapacity(t *testing.T, b Backend) {
	data, dir, _ := mounted(t, b)
	assert.NilError(t, b.Mounter().Check(t.Context(), data))
	capacity, err := b.Mounter().Capacity(t.Context(), data)
	assert.NilError(t, err)
	assert.Assert(t, capacity.TotalBytes > 0)
	assert.Assert(t, capacity.AvailableBytes <= capacity.TotalBytes-capacity.UsedBytes)
	f, err := os.Create(filepath.Join(data, "f"))
	assert.NilError(t, err)
	_, err = f.WriteString(strings.Repeat("x", 1<<20))
	assert.NilError(t, err)
	assert.NilError(t, f.Sync())
	assert.NilError(t, f.Close())
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		after, err := b.Mounter().Capacity(t.Context(), data)
		if err == nil && after.UsedBytes >= capacity.UsedBytes+1<<20 {
			return poll.Success()
		}
		return poll.Continue("used: %d, before: %d, %v", after.UsedBytes, capacity.UsedBytes, err)
	}, poll.WithTimeout(time.Minute)) // btrfs counts with its next commit
	for _, f := range []func() error{
		func() error { return b.Mounter().Check(t.Context(), dir) },
		func() error { _, err := b.Mounter().Capacity(t.Context(), filepath.Join(dir, "none")); return err },
	} {
		assert.ErrorIs(t, f(), nfsmount.ErrNotMounted)
	}
}

func silentServer(t *testing.T, b Backend) {
	data, dir, f := mountedFragile(t, b)
	healthy, _, _ := mounted(t, b)
	f.Silence()
	defer f.Revive()
	err := within(t, Patience(b), func() error { return b.Mounter().Check(t.Context(), data) })
	assert.ErrorIs(t, err, nfsmount.ErrUnresponsive)
	err = within(t, Patience(b), func() error { _, err := b.Mounter().Capacity(t.Context(), data); return err })
	assert.ErrorIs(t, err, nfsmount.ErrUnresponsive)

	// A caller with less patience is not kept waiting.
	hurried, cancel := context.WithTimeout(t.Context(), b.Limits().Stat/20)
	defer cancel()
	begin := time.Now()
	assert.Assert(t, b.Mounter().Check(hurried, data) != nil)
	assert.Assert(t, time.Since(begin) < b.Limits().Stat*3/4)

	// Others go on.
	assert.NilError(t, within(t, Patience(b), func() error { return b.Mounter().Check(t.Context(), healthy) }))
	assert.NilError(t, within(t, Patience(b), func() error {
		return b.Mounter().Bind(t.Context(), healthy, filepath.Join(dir, "target"), false)
	}))
	f.Revive()
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if err := b.Mounter().Check(t.Context(), data); err != nil {
			return poll.Continue("%v", err)
		}
		return poll.Success()
	}, poll.WithTimeout(90*time.Second)) // an NFS client sends again after 60 s at the latest
}

func silentServerIsAskedOnce(t *testing.T, b Backend) {
	data, _, f := mountedFragile(t, b)
	f.Silence()
	defer f.Revive()
	for range 5 {
		hurried, cancel := context.WithTimeout(t.Context(), b.Limits().Stat/20)
		assert.ErrorIs(t, b.Mounter().Check(hurried, data), nfsmount.ErrUnresponsive)
		cancel()
	}
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	assert.Equal(t, strings.Count(string(stacks), "unix.Statx("), 1, "one call waits in the kernel:\n%s", stacks)
}

func silentServerUnmount(t *testing.T, b Backend) {
	data, dir, f := mountedFragile(t, b)
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	assert.NilError(t, b.Mounter().Bind(t.Context(), data, one, false))
	assert.NilError(t, b.Mounter().Bind(t.Context(), data, two, true))
	f.Silence()
	defer f.Revive()
	for _, target := range []string{one, two, one} {
		assert.NilError(t, within(t, Patience(b), func() error { return b.Mounter().Unbind(t.Context(), target) }))
		gone(t, target)
	}
	for range 2 {
		assert.NilError(t, within(t, Patience(b), func() error { return b.Mounter().Unmount(t.Context(), data) }))
		gone(t, data)
	}
	assert.Equal(t, len(mountsBelow(t, dir)), 0)
}

func silentServerMount(t *testing.T, b Backend) {
	data, dir, f := mountedFragile(t, b)
	f.Silence()
	defer f.Revive()
	// Staged already: the mount stays, as it comes back with its server.
	err := within(t, Patience(b), func() error { return b.Mounter().Mount(t.Context(), f.Source, data, b.Options()) })
	assert.ErrorIs(t, err, nfsmount.ErrUnresponsive)
	assert.DeepEqual(t, mountsBelow(t, dir), []string{data})
	// Anew: nothing appears, then or later.
	second := filepath.Join(dir, "second")
	err = within(t, Patience(b), func() error { return b.Mounter().Mount(t.Context(), f.Source, second, b.Options()) })
	assert.ErrorIs(t, err, nfsmount.ErrUnresponsive)
	assert.Equal(t, layers(t, second), 0)
}

// tree makes a volume with all kinds of entries, and a file outside that a link in it leads to.
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
	assert.NilError(t, b.Mounter().SetGroup(t.Context(), data, 2345))
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
	// What is made later belongs to the group.
	write(t, filepath.Join(data, "a", "new"), "x")
	gid, _ = ownership(t, filepath.Join(data, "a", "new"))
	assert.Equal(t, gid, uint32(2345))
}

func groupSkipsWhenRootMatches(t *testing.T, b Backend) {
	data, _ := tree(t, b)
	assert.NilError(t, b.Mounter().SetGroup(t.Context(), data, 2345))
	foreign := filepath.Join(data, "a", "b", "f2")
	assert.NilError(t, os.Chown(foreign, 0, 77))
	assert.NilError(t, b.Mounter().SetGroup(t.Context(), data, 2345))
	gid, _ := ownership(t, foreign)
	assert.Equal(t, gid, uint32(77), "not looked at")
	assert.NilError(t, os.Chmod(data, 0o755))
	assert.NilError(t, b.Mounter().SetGroup(t.Context(), data, 2345))
	gid, _ = ownership(t, foreign)
	assert.Equal(t, gid, uint32(2345), "looked at, as the root did not match")
}

func groupGoesOn(t *testing.T, b Backend) {
	data, _ := tree(t, b)
	over, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("the caller's time is over")
	cancel(reason)
	assert.ErrorIs(t, b.Mounter().SetGroup(over, data, 2345), reason)
	gid, _ := ownership(t, data)
	assert.Equal(t, gid, uint32(0), "the root is last")
	assert.NilError(t, b.Mounter().SetGroup(t.Context(), data, 2345))
	gid, _ = ownership(t, data)
	assert.Equal(t, gid, uint32(2345))
}
