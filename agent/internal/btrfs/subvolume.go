package btrfs

import (
	"errors"
	"os"
	"unsafe"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// firstFreeObjectID is the inode number of the root directory of every subvolume. It is also the
// lowest subvolume ID below the top of the filesystem (BTRFS_FIRST_FREE_OBJECTID).
const firstFreeObjectID = 256

// SubvolumeInfo describes one subvolume.
type SubvolumeInfo struct {
	ID         uint64    // unique in its filesystem, never reused; also the number of its qgroup
	ParentID   uint64    // the subvolume that contains it; 0 for the top and for a destroyed one
	UUID       uuid.UUID // set at creation; zero for the top of filesystems made before mkfs.btrfs 4.16
	ParentUUID uuid.UUID // the source if it is a snapshot; otherwise zero
	ReadOnly   bool
}

// CreateSubvolume creates the empty subvolume name in dir. It is durable after the next Commit. An
// existing name is EEXIST.
func CreateSubvolume(dir *os.File, name string) error {
	args := volArgs{}
	err := checkName(name)
	if err == nil {
		copy(args.Name[:], name)
		err = ioctl(dir, iocSubvolCreate, unsafe.Pointer(&args))
	}
	return failed("create subvolume", name, err)
}

// Snapshot creates name in dir as a snapshot of the subvolume with the root directory source. The
// call commits a transaction, so the snapshot and all earlier tree changes (see Commit) are durable
// when it returns. The snapshot includes data of source that is still in the page cache. Nested
// subvolumes are empty directories in it. An existing name is EEXIST.
//
// Snapshot never uses qgroup inheritance. It would make a filesystem in full quota mode
// inconsistent, and limits are not enforced until a rescan.
func Snapshot(source, dir *os.File, name string, readOnly bool) error {
	return failed("snapshot", name, snapshot(source, dir, name, readOnly))
}

func snapshot(source, dir *os.File, name string, readOnly bool) error {
	if err := checkName(name); err != nil {
		return err
	}
	// Older kernels accept any descriptor, and would snapshot the subvolume that contains it.
	if err := requireSubvolume(source); err != nil {
		return err
	}
	args := volArgsV2{}
	if readOnly {
		args.Flags |= subvolReadOnly
	}
	copy(args.Name[:], name)
	return withFD(source, func(fd int) error {
		args.FD = int64(fd)
		return ioctl(dir, iocSnapCreateV2, unsafe.Pointer(&args))
	})
}

// Subvolume describes the subvolume with the root directory f. For other files it returns
// ErrNotSubvolume.
func Subvolume(f *os.File) (SubvolumeInfo, error) {
	if err := requireSubvolume(f); err != nil {
		return SubvolumeInfo{}, failed("subvolume info", f.Name(), err)
	}
	return ContainingSubvolume(f)
}

// ContainingSubvolume describes the subvolume that contains f, which is a file or directory.
func ContainingSubvolume(f *os.File) (SubvolumeInfo, error) {
	args := subvolInfoArgs{}
	if err := ioctl(f, iocGetSubvolInfo, unsafe.Pointer(&args)); err != nil {
		if errors.Is(err, unix.ENOTTY) {
			err = ErrNotBtrfs
		}
		return SubvolumeInfo{}, failed("subvolume info", f.Name(), err)
	}
	return SubvolumeInfo{
		ID:         args.TreeID,
		ParentID:   args.ParentID,
		UUID:       args.UUID,
		ParentUUID: args.ParentUUID,
		ReadOnly:   args.Flags&rootFlagReadOnly != 0,
	}, nil
}

// rootFlagReadOnly is BTRFS_ROOT_SUBVOL_RDONLY. GET_SUBVOL_INFO returns the flags of the root item
// (linux/btrfs_tree.h), not those of SUBVOL_GETFLAGS.
const rootFlagReadOnly = 1 << 0

// SetReadOnly makes the subvolume with the root directory f read-only or writable. The kernel
// refuses with ETXTBSY to make it read-only while it contains an active swap file. The change is
// durable after the next Commit.
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
	// Only the root of a subvolume has this number. The empty directory in place of a nested
	// subvolume in a snapshot has number 2.
	if !isDir || inode != firstFreeObjectID {
		return ErrNotSubvolume
	}
	return nil
}

func stat(f *os.File) (inode uint64, isDir bool, err error) {
	var st unix.Stat_t
	err = withFD(f, func(fd int) error { return unix.Fstat(fd, &st) })
	return st.Ino, st.Mode&unix.S_IFMT == unix.S_IFDIR, err
}
