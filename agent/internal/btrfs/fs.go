// Package btrfs speaks to a btrfs filesystem through its ioctls and sysfs. It starts no process and
// needs no C. It knows subvolumes, quotas, space and devices, and nothing of what they are used for.
//
// Most calls need CAP_SYS_ADMIN. Functions take open descriptors, not paths, so that nobody who can
// write to the filesystem can redirect them. All are safe for concurrent use.
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

// FS is an open btrfs filesystem. It holds a descriptor, which keeps the filesystem mounted.
type FS struct {
	dir     *os.File
	sysfs   string // where sysfs is mounted
	fsid    uuid.UUID
	commits commitGroup
	nudges  atomic.Int32 // that have not returned: see startCommit
}

// Info describes a filesystem.
type Info struct {
	FSID       uuid.UUID
	Devices    int    // how many it has, missing ones included
	NodeSize   int    // bytes of one metadata block
	SectorSize int    // bytes of one data block
	Generation uint64 // of the running or, if there is none, the last transaction; 0 before kernel 5.10
}

// Open opens the filesystem that the directory is on. The directory may be anywhere in it.
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

// OpenFile opens the filesystem that f is on. It keeps a descriptor of its own: f stays the caller's.
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

// Close gives the descriptor back. Calls that are under way finish first.
func (fs *FS) Close() error {
	endNudges(&fs.nudges, fs.nudge)
	return fs.dir.Close()
}

// File is the descriptor that the filesystem was opened with. It belongs to fs: do not close it.
func (fs *FS) File() *os.File { return fs.dir }

// Info reads what the filesystem is.
func (fs *FS) Info() (Info, error) {
	args, err := fs.info()
	if err != nil {
		return Info{}, failed("info", fs.dir.Name(), err)
	}
	return Info{
		FSID:       args.FSID,
		Devices:    int(args.NumDevices),
		NodeSize:   int(args.NodeSize),
		SectorSize: int(args.SectorSize),
		Generation: args.Generation,
	}, nil
}

// ReadOnly says whether the filesystem takes no changes: because it is mounted so, or because btrfs
// met an error that it could not survive and turned itself read-only.
func (fs *FS) ReadOnly() (bool, error) {
	stat, err := statfs(fs.dir)
	if err != nil {
		return false, failed("statfs", fs.dir.Name(), err)
	}
	return stat.Flags&unix.ST_RDONLY != 0, nil
}

// adopt makes an FS of f, whose owner it becomes if it succeeds.
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
	args := fsInfoArgs{Flags: fsInfoGeneration}
	err := ioctl(fs.dir, iocFSInfo, unsafe.Pointer(&args))
	return args, err
}

// sysfsPath is where the kernel shows this filesystem (Documentation: btrfs(5), "sysfs interface").
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
	var callErr error
	err := withFD(f, func(fd uintptr) {
		for {
			if callErr = unix.Fstatfs(int(fd), &stat); !errors.Is(callErr, unix.EINTR) {
				return
			}
		}
	})
	return stat, errors.Join(err, callErr)
}

// reopen returns a second descriptor of what f has open.
func reopen(f *os.File) (*os.File, error) {
	var own int
	var callErr error
	err := withFD(f, func(fd uintptr) {
		own, callErr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err = errors.Join(err, callErr); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(own), f.Name()), nil
}
