package btrfs

import (
	"encoding/binary"
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/openat2"
)

// DestroyTree removes the subvolume name in dir, read-only or not, and all subvolumes in it,
// deepest first. It finds them in the tree of roots, so its cost does not depend on the number
// of files. If it fails midway, some of the nested subvolumes are gone, and the caller can call
// it again. It does not wait for the space. The kernel frees the space in the background, and
// the space of open files when they are closed. The removal is durable after the next Commit.
//
// A name that is not a subvolume is EINVAL, and a missing name is ENOENT. In simple quota mode, a
// subvolume whose extents other subvolumes share leaves its qgroup behind. See StaleQgroups.
func DestroyTree(dir *os.File, name string) error {
	return failed("destroy tree", name, destroyTree(dir, name))
}

func destroyTree(dir *os.File, name string) error {
	err := destroySubvolume(dir, name)
	if !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	root, err := openat2.OpenDir(dir, name)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	if err := destroyNested(root); err != nil {
		return err
	}
	return destroySubvolume(dir, name)
}

// destroyNested removes the subvolumes below the subvolume with the root directory parent.
func destroyNested(parent *os.File) error {
	info, err := Subvolume(parent)
	if err != nil {
		return err
	}
	children, err := childrenOf(parent, info.ID)
	if err != nil || len(children) == 0 {
		return err
	}
	// The kernel refuses with EROFS to remove a directory entry from a read-only subvolume.
	if err := setReadOnly(parent, false); err != nil {
		return err
	}
	for _, child := range children {
		if err := destroyChild(parent, info.ID, child); err != nil {
			return err
		}
	}
	return nil
}

func destroyChild(parent *os.File, parentID uint64, child rootRef) error {
	err := destroyByID(parent, child.id)
	if errors.Is(err, unix.ENOENT) {
		return nil // another process removed it
	}
	if !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	directory, err := lookupDirectory(parent, parentID, child.dirID)
	if err != nil {
		return err
	}
	f, err := openat2.OpenDir(parent, directory+child.name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if info, err := Subvolume(f); err != nil || info.ID != child.id {
		return errors.Join(err, unix.ESTALE)
	}
	if err := destroyNested(f); err != nil {
		return err
	}
	return destroyByID(parent, child.id)
}

func destroySubvolume(dir *os.File, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	args := volArgs{}
	copy(args.Name[:], name)
	return ioctl(dir, iocSnapDestroy, unsafe.Pointer(&args))
}

// destroyByID needs Linux 5.7. Unlike a name, an ID is never reused for another subvolume.
func destroyByID(f *os.File, id uint64) error {
	args := volArgsV2{Flags: subvolByID}
	binary.NativeEndian.PutUint64(args.Name[:], id)
	return ioctl(f, iocSnapDestroyV2, unsafe.Pointer(&args))
}
