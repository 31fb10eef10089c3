package btrfs

import (
	"errors"
	"os"
	"time"
	"unsafe"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// firstFreeObjectID is the inode number of every subvolume's root directory, and the lowest ID of
// those subvolumes that are not the top of the filesystem (BTRFS_FIRST_FREE_OBJECTID).
const firstFreeObjectID = 256

// SubvolumeInfo describes one subvolume.
type SubvolumeInfo struct {
	ID           uint64    // unique in its filesystem, never given again; also the number of its qgroup
	ParentID     uint64    // of the subvolume that contains it; 0 for the top and for a destroyed one
	Name         string    // its directory entry in the parent; empty for the top
	UUID         uuid.UUID // given at creation; zero for the top of filesystems made before mkfs.btrfs 4.16
	ParentUUID   uuid.UUID // of what it is a snapshot of; zero if it is none
	ReceivedUUID uuid.UUID // zero unless made by btrfs receive
	Generation   uint64    // of the transaction that changed it last
	CTransID     uint64    // of the transaction that changed an inode in it last
	OTransID     uint64    // of the transaction that created it
	ReadOnly     bool
	CreatedAt    time.Time
}

// CreateSubvolume makes the empty subvolume name in dir. It is durable after the next Commit.
// An existing name is EEXIST.
func CreateSubvolume(dir *os.File, name string) error {
	args := volArgs{}
	err := checkName(name)
	if err == nil {
		copy(args.Name[:], name)
		err = ioctl(dir, iocSubvolCreate, unsafe.Pointer(&args))
	}
	return failed("create subvolume", name, err)
}

// Snapshot makes name in dir a snapshot of the subvolume that source is the root directory of.
// The call commits a transaction: the snapshot and all earlier tree changes (see Commit) are durable
// when it returns. Data that is still in the page cache for source is in the snapshot, but nested
// subvolumes are not: they are empty directories there. An existing name is EEXIST.
//
// It never uses qgroup inheritance, with which a filesystem in full quota mode becomes inconsistent
// and stops enforcing limits until it is rescanned.
func Snapshot(source, dir *os.File, name string, readOnly bool) error {
	return failed("snapshot", name, snapshot(source, dir, name, readOnly))
}

func snapshot(source, dir *os.File, name string, readOnly bool) error {
	if err := checkName(name); err != nil {
		return err
	}
	// Older kernels take any descriptor, and would snapshot the subvolume that it lies in.
	if err := requireSubvolume(source); err != nil {
		return err
	}
	args := volArgsV2{}
	if readOnly {
		args.Flags |= subvolReadOnly
	}
	copy(args.Name[:], name)
	var callErr error
	err := withFD(source, func(fd uintptr) {
		args.FD = int64(fd)
		callErr = ioctl(dir, iocSnapCreateV2, unsafe.Pointer(&args))
	})
	return errors.Join(err, callErr)
}

// Subvolume describes the subvolume that f is the root directory of, else it returns ErrNotSubvolume.
func Subvolume(f *os.File) (SubvolumeInfo, error) {
	if err := requireSubvolume(f); err != nil {
		return SubvolumeInfo{}, failed("subvolume info", f.Name(), err)
	}
	return ContainingSubvolume(f)
}

// ContainingSubvolume describes the subvolume that f, a file or directory, lies in.
func ContainingSubvolume(f *os.File) (SubvolumeInfo, error) {
	args := subvolInfoArgs{}
	if err := ioctl(f, iocGetSubvolInfo, unsafe.Pointer(&args)); err != nil {
		if errors.Is(err, unix.ENOTTY) {
			err = ErrNotBtrfs
		}
		return SubvolumeInfo{}, failed("subvolume info", f.Name(), err)
	}
	return SubvolumeInfo{
		ID:           args.TreeID,
		ParentID:     args.ParentID,
		Name:         cString(args.Name[:]),
		UUID:         args.UUID,
		ParentUUID:   args.ParentUUID,
		ReceivedUUID: args.ReceivedUUID,
		Generation:   args.Generation,
		CTransID:     args.CTransID,
		OTransID:     args.OTransID,
		ReadOnly:     args.Flags&rootFlagReadOnly != 0,
		CreatedAt:    time.Unix(int64(args.OTime.Sec), int64(args.OTime.Nsec)),
	}, nil
}

// rootFlagReadOnly is BTRFS_ROOT_SUBVOL_RDONLY: GET_SUBVOL_INFO shows the flags of the root item
// (linux/btrfs_tree.h), not those of SUBVOL_GETFLAGS.
const rootFlagReadOnly = 1 << 0

// SetReadOnly makes the subvolume that f is the root directory of read-only, or writable again.
// Making it read-only is refused with ETXTBSY while files in it are being swapped to. It is durable
// after the next Commit.
func SetReadOnly(f *os.File, readOnly bool) error {
	return failed("set read-only", f.Name(), setReadOnly(f, readOnly))
}

func setReadOnly(f *os.File, readOnly bool) error {
	if err := requireSubvolume(f); err != nil {
		return err
	}
	var flags uint64
	if err := ioctl(f, iocSubvolGetFlags, unsafe.Pointer(&flags)); err != nil {
		return err
	}
	wanted := flags &^ subvolReadOnly
	if readOnly {
		wanted |= subvolReadOnly
	}
	if wanted == flags {
		return nil
	}
	return ioctl(f, iocSubvolSetFlags, unsafe.Pointer(&wanted))
}

func requireSubvolume(f *os.File) error {
	if err := onBtrfs(f); err != nil {
		return err
	}
	inode, isDir, err := stat(f)
	if err != nil {
		return err
	}
	// Nothing but a subvolume's root has this number; the empty directory that stands for a nested
	// subvolume in a snapshot has number 2.
	if !isDir || inode != firstFreeObjectID {
		return ErrNotSubvolume
	}
	return nil
}

func stat(f *os.File) (inode uint64, isDir bool, err error) {
	var st unix.Stat_t
	var callErr error
	err = withFD(f, func(fd uintptr) { callErr = unix.Fstat(int(fd), &st) })
	return st.Ino, st.Mode&unix.S_IFMT == unix.S_IFDIR, errors.Join(err, callErr)
}
