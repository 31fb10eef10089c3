package nfsmount

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// Permissions of the group, the same as the kubelet gives for fsGroup (k8s.io/kubernetes
	// pkg/volume/volume_linux.go): read and write. On directories it adds execute, and the setgid bit,
	// so that new files also belong to the group.
	groupFileMode = 0o060
	groupDirMode  = unix.S_ISGID | 0o070

	// maxGroupDepth limits open directories, because each level of the walk holds one.
	maxGroupDepth = 1000

	nameBatch = 512 // directory entries read at a time

	maxSkippedNames = 10 // in the log
)

// SetGroup gives the volume that is mounted at dir and all its content to the group and makes it
// group-writable, in this order:
//
//  1. If the root already has the group and mode, SetGroup is done. This needs no permission on the
//     server.
//  2. A walk in the background changes the content, depth first. It changes only wrong groups and
//     modes. It changes symbolic links and never follows them. It skips subvolumes and filesystems
//     that are mounted below.
//  3. The walk changes the root last, so that an interrupted walk starts again.
//
// There is one walk per mount. A call waits for it until the caller's deadline or its own. The walk
// goes on for target, and the next call waits for the same walk and gets its result. EndGroup,
// Unmount and the end of the process stop it. A call for another group first waits for the walk in
// progress.
func (m *Mounter) SetGroup(ctx context.Context, dir, target string, gid uint32) error {
	dir, err := m.resolve(ctx, dir)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, m.limits.Group, fmt.Errorf("%w after %v", context.DeadlineExceeded, m.limits.Group))
	defer cancel()
	for {
		walk, err := m.groupWalk(dir, target, gid)
		if err != nil {
			return err
		}
		select {
		case <-walk.done:
			m.groups.forget(dir, walk)
			if walk.gid == gid {
				return walk.err
			}
		case <-ctx.Done():
			return fmt.Errorf("group %d is not yet set on all of %s, the change continues (%d entries so far): %w",
				walk.gid, dir, walk.entries.Load(), context.Cause(ctx))
		}
	}
}

// EndGroup ends the wait of a target for its group. It stops the walk if no other target waits for
// it.
func (m *Mounter) EndGroup(ctx context.Context, target string) {
	m.endWalks(ctx, func(_ string, walk *groupWalk) bool {
		waits := walk.targets[target]
		delete(walk.targets, target)
		return waits && len(walk.targets) == 0
	})
}

// endWalks stops the walks that match. It waits for that as long as one request to the server may
// take.
func (m *Mounter) endWalks(ctx context.Context, match func(dir string, walk *groupWalk) bool) {
	ctx, cancel := m.patience(ctx)
	defer cancel()
	for _, walk := range m.groups.end(match) {
		select {
		case <-walk.done:
		case <-ctx.Done():
		}
	}
}

// groupWalks holds the walks by mount directory: one goroutine each, until the mount is gone.
type groupWalks struct {
	mu    sync.Mutex
	byDir map[string]*groupWalk
}

type groupWalk struct {
	mount   int // mount ID
	gid     uint32
	targets map[string]bool // that wait for it
	cancel  context.CancelFunc
	entries atomic.Int64

	done chan struct{}
	err  error // once done
}

// groupWalk returns the walk at dir and adds target to it. It abandons the walk of a mount that was
// replaced since.
func (m *Mounter) groupWalk(dir, target string, gid uint32) (*groupWalk, error) {
	point, err := m.Lookup(dir)
	if err != nil {
		return nil, err
	}
	m.groups.mu.Lock()
	defer m.groups.mu.Unlock()
	if walk := m.groups.byDir[dir]; walk != nil {
		if walk.mount == point.id {
			walk.targets[target] = true
			return walk, nil
		}
		walk.cancel()
	}
	ctx, cancel := context.WithCancel(context.Background())
	walk := &groupWalk{mount: point.id, gid: gid, targets: map[string]bool{target: true}, cancel: cancel, done: make(chan struct{})}
	if m.groups.byDir == nil {
		m.groups.byDir = map[string]*groupWalk{}
	}
	m.groups.byDir[dir] = walk
	go func() {
		defer cancel()
		walk.err = m.setGroup(ctx, dir, walk)
		if walk.err == nil {
			m.groups.forget(dir, walk) // the walk keeps an error for the next call
		}
		close(walk.done)
	}()
	return walk, nil
}

func (g *groupWalks) forget(dir string, walk *groupWalk) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.byDir[dir] == walk {
		delete(g.byDir, dir)
	}
}

func (g *groupWalks) end(match func(dir string, walk *groupWalk) bool) []*groupWalk {
	g.mu.Lock()
	defer g.mu.Unlock()
	var ended []*groupWalk
	for dir, walk := range g.byDir {
		if match(dir, walk) {
			walk.cancel()
			delete(g.byDir, dir)
			ended = append(ended, walk)
		}
	}
	return ended
}

func (m *Mounter) setGroup(ctx context.Context, dir string, walk *groupWalk) error {
	begin := time.Now()
	r := regroup{gid: walk.gid, entries: &walk.entries}
	err := r.volume(ctx, dir)
	if skipped := r.skipped; len(skipped) > 0 {
		m.log.WarnContext(ctx, "skipped subvolumes within the volume, set their group on the storage host",
			"dir", dir, "group", walk.gid, "subvolumes", skipped, "total", r.skippedTotal)
	}
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		err = fmt.Errorf("%w: %w: where the class has rootSquash, give it gid %d and mode 2770, which a VolumeAttributesClass can also do; "+
			"otherwise set group and mode on the storage host", ErrNotPermitted, err, walk.gid)
	}
	if entries := walk.entries.Load(); entries > 0 && err == nil {
		m.log.InfoContext(ctx, "set the group of a volume", "dir", dir, "group", walk.gid, "entries", entries, "took", time.Since(begin))
	}
	return err
}

type regroup struct {
	gid     uint32
	root    unix.Stat_t
	rootDir *os.File
	entries *atomic.Int64 // visited

	skipped      []string // the first subvolumes within the volume
	skippedTotal int
}

// volume opens the root for reading only if it has to change an entry. With root_squash, the server
// may not let root of this node read it.
func (r *regroup) volume(ctx context.Context, dir string) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &r.root); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	if r.isDone(&r.root) {
		return nil
	}
	r.rootDir, err = openDir(fd, ".", dir)
	if err != nil {
		return err
	}
	defer r.rootDir.Close()
	if err := r.content(ctx, r.rootDir, 0); err != nil {
		return err
	}
	return r.change(fd, dir)
}

// content changes all entries of a directory, depth first.
func (r *regroup) content(ctx context.Context, dir *os.File, depth int) error {
	if depth > maxGroupDepth {
		return fmt.Errorf("%s: deeper than %d directories: set the group on the storage host", dir.Name(), maxGroupDepth)
	}
	for {
		names, err := dir.Readdirnames(nameBatch)
		for _, name := range names {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := r.entry(ctx, dir, name, depth); err != nil && !errors.Is(err, unix.ENOENT) {
				return err // an entry that was deleted in the meantime needs no group
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (r *regroup) entry(ctx context.Context, dir *os.File, name string, depth int) error {
	path := dir.Name() + "/" + name
	r.entries.Add(1)
	var s unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), name, &s, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT)
	if err != nil {
		return r.unlessPlaceholder(path, err)
	}
	isDir := s.Mode&unix.S_IFMT == unix.S_IFDIR
	if s.Dev != r.root.Dev || isDir && r.isSubvolume(s.Ino) {
		r.skip(path)
		return nil
	}
	if isDir {
		skipped, err := r.directory(ctx, dir, name, depth)
		if skipped || err != nil {
			return r.unlessPlaceholder(path, err)
		}
	}
	if r.isDone(&s) {
		return nil
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(fd)
	return r.unlessPlaceholder(path, r.change(fd, path))
}

func (r *regroup) directory(ctx context.Context, dir *os.File, name string, depth int) (skipped bool, err error) {
	path := dir.Name() + "/" + name
	sub, err := openDir(int(dir.Fd()), name, path)
	if err != nil {
		return false, err
	}
	defer sub.Close()
	var s unix.Stat_t
	if err := unix.Fstat(int(sub.Fd()), &s); err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	if s.Dev != r.root.Dev { // the kernel's client mounted another filesystem of the server there
		r.skip(path)
		return true, nil
	}
	return false, r.content(ctx, sub, depth+1)
}

func openDir(at int, name, path string) (*os.File, error) {
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// isSubvolume reports whether a directory in the volume is another subvolume, or the empty
// directory that replaces one in a snapshot (BTRFS_FIRST_FREE_OBJECTID,
// BTRFS_EMPTY_SUBVOL_DIR_OBJECTID in linux/btrfs_tree.h). Over NFS they have the device number of
// the volume. Their group cannot be changed if they are read-only or empty.
func (r *regroup) isSubvolume(inode uint64) bool {
	const subvolume, placeholder = 256, 2
	return r.root.Ino == subvolume && (inode == subvolume || inode == placeholder)
}

// unlessPlaceholder drops ESTALE while the volume's root answers: the server has no file handle for
// the empty directory that replaces a subvolume.
func (r *regroup) unlessPlaceholder(path string, err error) error {
	var s unix.Statfs_t
	if !errors.Is(err, unix.ESTALE) || r.root.Ino != 256 || unix.Fstatfs(int(r.rootDir.Fd()), &s) != nil {
		return err
	}
	r.skip(path)
	return nil
}

func (r *regroup) skip(path string) {
	r.skippedTotal++
	if len(r.skipped) < maxSkippedNames {
		r.skipped = append(r.skipped, path)
	}
}

// change works on the file that fd holds, so that a client cannot redirect it by swapping names.
func (r *regroup) change(fd int, path string) error {
	var s unix.Stat_t
	if err := unix.Fstat(fd, &s); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if s.Gid != r.gid {
		if err := unix.Fchownat(fd, "", -1, int(r.gid), unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("%s: change the group to %d: %w", path, r.gid, err)
		}
	}
	if s.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil // the mode of a symbolic link has no meaning
	}
	want := groupMode(s.Mode)
	cleared := s.Gid != r.gid && s.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 // by chown(2)
	if s.Mode&want == want && !cleared {
		return nil
	}
	// fchmod(2) does not accept an O_PATH descriptor.
	if err := unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), s.Mode&0o7777|want); err != nil {
		return fmt.Errorf("%s: change the mode: %w", path, err)
	}
	return nil
}

func (r *regroup) isDone(s *unix.Stat_t) bool {
	want := groupMode(s.Mode)
	return s.Gid == r.gid && s.Mode&want == want
}

func groupMode(mode uint32) uint32 {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return groupDirMode
	case unix.S_IFLNK:
		return 0
	}
	return groupFileMode
}
