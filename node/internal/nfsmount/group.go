package nfsmount

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// What the group may do. The same as kubelet gives for fsGroup (k8s.io/kubernetes pkg/volume/volume_linux.go): read
	// and write; on directories also enter, and the setgid bit, so that what is made later belongs to the group as well.
	groupFileMode = 0o060
	groupDirMode  = unix.S_ISGID | 0o070

	// maxGroupDepth bounds open directories, as each level of the walk holds one.
	maxGroupDepth = 1000

	nameBatch = 512 // directory entries read at a time
)

// SetGroup makes the volume at dir and all in it belong to the group and writable for it. When the volume's root is so
// already, nothing is looked at: the root is changed last. It ends with the caller's deadline or its own, and goes on where
// it was when it is called again, since what is done is not done twice. Symbolic links are changed, never followed;
// what is mounted below is left alone.
func (m *Mounter) SetGroup(ctx context.Context, dir string, gid uint32) error {
	ctx, cancel := context.WithTimeoutCause(ctx, m.limits.Group,
		fmt.Errorf("%w: group %d is not set on all of %s within %v; the next call goes on", context.DeadlineExceeded, gid, dir, m.limits.Group))
	defer cancel()
	dir, err := m.resolve(ctx, dir)
	if err != nil {
		return err
	}
	return boundedErr(ctx, func() error { return setGroup(ctx, dir, gid) })
}

func setGroup(ctx context.Context, dir string, gid uint32) error {
	root, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer root.Close()
	var s unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &s); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	r := regroup{gid: gid, device: s.Dev}
	if r.isDone(&s) {
		return nil
	}
	if err := r.content(ctx, root, 0); err != nil {
		return err
	}
	return r.change(int(root.Fd()), root.Name())
}

type regroup struct {
	gid    uint32
	device uint64
}

// content changes all that is in a directory, whatever is in it first.
func (r regroup) content(ctx context.Context, dir *os.File, depth int) error {
	if depth > maxGroupDepth {
		return fmt.Errorf("%s: deeper than %d directories: set the group by hand", dir.Name(), maxGroupDepth)
	}
	for {
		names, err := dir.Readdirnames(nameBatch)
		for _, name := range names {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := r.entry(ctx, dir, name, depth); err != nil && !errors.Is(err, unix.ENOENT) {
				return err // what is gone meanwhile needs no group
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (r regroup) entry(ctx context.Context, dir *os.File, name string, depth int) error {
	path := dir.Name() + "/" + name
	var s unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &s, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if s.Dev != r.device {
		return nil
	}
	if s.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := r.directory(ctx, dir, name, depth); err != nil {
			return err
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
	return r.change(fd, path)
}

func (r regroup) directory(ctx context.Context, dir *os.File, name string, depth int) error {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s/%s: %w", dir.Name(), name, err)
	}
	sub := os.NewFile(uintptr(fd), dir.Name()+"/"+name)
	defer sub.Close()
	return r.content(ctx, sub, depth+1)
}

// change works on the one file that fd holds, so that a client who swaps names meanwhile gains nothing.
func (r regroup) change(fd int, path string) error {
	var s unix.Stat_t
	if err := unix.Fstat(fd, &s); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if s.Gid != r.gid {
		if err := unix.Fchownat(fd, "", -1, int(r.gid), unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("%s: changing the group to %d: %w", path, r.gid, err)
		}
	}
	if s.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil // its mode means nothing
	}
	// After the group: chown(2) clears the setuid and setgid bits. fchmod(2) does not take an O_PATH descriptor.
	if err := unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), s.Mode&0o7777|groupMode(s.Mode)); err != nil {
		return fmt.Errorf("%s: changing the mode: %w", path, err)
	}
	return nil
}

func (r regroup) isDone(s *unix.Stat_t) bool {
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
