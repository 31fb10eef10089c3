// Package btrfs controls a btrfs filesystem through its ioctls and sysfs. Apart from the
// long-running commands in program.go it starts no process, and it needs no C. It handles
// subvolumes, quotas, space and devices, independent of their use.
//
// Most calls need CAP_SYS_ADMIN. Functions take open descriptors, not paths, so that users who can
// write to the filesystem cannot redirect them. All are safe for concurrent use.
package btrfs

import (
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"unsafe"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// FS is an open btrfs filesystem. Its descriptor keeps the filesystem mounted.
type FS struct {
	dir     *os.File
	sysfs   string // mount point of sysfs
	fsid    uuid.UUID
	commits commitGroup
	nudges  atomic.Int32 // nudges that have not returned: see startCommit
}

// Open opens the filesystem that contains the directory, which may be anywhere in it.
func Open(dir string) (*FS, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	opened, err := adopt(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return opened, nil
}

// OpenFile opens the filesystem that contains f. It duplicates the descriptor: the caller still has
// to close f.
func OpenFile(f *os.File) (*FS, error) {
	own, err := reopen(f)
	if err != nil {
		return nil, failed("open", f.Name(), err)
	}
	opened, err := adopt(own)
	if err != nil {
		return nil, errors.Join(err, own.Close())
	}
	return opened, nil
}

// Close closes the descriptor. Running calls finish first.
func (fs *FS) Close() error {
	endNudges(&fs.nudges, fs.nudge)
	return fs.dir.Close()
}

// File returns the descriptor of the filesystem. It belongs to fs: do not close it.
func (fs *FS) File() *os.File { return fs.dir }

// FSID returns the UUID of the filesystem.
func (fs *FS) FSID() uuid.UUID { return fs.fsid }

// ReadOnly reports whether the filesystem is read-only. Either it is mounted read-only, or btrfs
// turned it read-only after an error.
func (fs *FS) ReadOnly() (bool, error) {
	stat, err := statfs(fs.dir)
	if err != nil {
		return false, failed("statfs", fs.dir.Name(), err)
	}
	return stat.Flags&unix.ST_RDONLY != 0, nil
}

// adopt makes an FS of f. If it succeeds, the FS owns f.
func adopt(f *os.File) (*FS, error) {
	if err := onBtrfs(f); err != nil {
		return nil, failed("open", f.Name(), err)
	}
	fs := &FS{dir: f, sysfs: "/sys"}
	args, err := fs.info()
	if err != nil {
		return nil, failed("info", f.Name(), err)
	}
	fs.fsid = args.FSID
	return fs, nil
}

func (fs *FS) info() (fsInfoArgs, error) {
	var args fsInfoArgs
	err := ioctl(fs.dir, iocFSInfo, unsafe.Pointer(&args))
	return args, err
}

// sysfsPath returns a path in the sysfs directory of this filesystem (btrfs(5), "sysfs interface").
func (fs *FS) sysfsPath(elem ...string) string {
	return filepath.Join(append([]string{fs.sysfs, "fs/btrfs", fs.fsid.String()}, elem...)...)
}

func onBtrfs(f *os.File) error {
	stat, err := statfs(f)
	if err != nil {
		return err
	}
	if stat.Type != unix.BTRFS_SUPER_MAGIC {
		return ErrNotBtrfs
	}
	return nil
}

func statfs(f *os.File) (unix.Statfs_t, error) {
	var stat unix.Statfs_t
	err := withFD(f, func(fd int) error { return unix.Fstatfs(fd, &stat) })
	return stat, err
}

// reopen returns a duplicate of the descriptor of f.
func reopen(f *os.File) (*os.File, error) {
	var own int
	err := withFD(f, func(fd int) (err error) {
		own, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(own), f.Name()), nil
}
