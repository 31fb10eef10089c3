package btrfs

import (
	"encoding/binary"
	"os"
	"unsafe"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// SubvolumeRef is one subvolume of a filesystem, as the tree of roots shows it.
type SubvolumeRef struct {
	ID         uint64
	UUID       uuid.UUID
	ParentUUID uuid.UUID // the source if it is a snapshot; otherwise zero
	ReadOnly   bool
}

// SubvolumesNamed lists the subvolumes called name in the subvolume that contains dir. The key is
// the inode number of the directory that holds each one. It reads only the tree of roots, about 140
// subvolumes per system call, and does not open the subvolumes.
func (fs *FS) SubvolumesNamed(dir *os.File, name string) (map[uint64]SubvolumeRef, error) {
	parent, err := ContainingSubvolume(dir)
	if err != nil {
		return nil, err
	}
	roots, err := listRoots(fs.dir)
	if err != nil {
		return nil, failed("list subvolumes", "", err)
	}
	found := map[uint64]SubvolumeRef{}
	for _, root := range roots {
		if root.parentID == parent.ID && root.name == name {
			found[root.dirID] = SubvolumeRef{ID: root.id, UUID: root.uuid, ParentUUID: root.parentUUID, ReadOnly: root.readOnly}
		}
	}
	return found, nil
}

// rootRef locates a subvolume: directory dirID of the subvolume parentID, under name.
type rootRef struct {
	id, parentID, dirID uint64
	name                string
}

type root struct {
	rootRef
	uuid, parentUUID uuid.UUID
	readOnly         bool
}

// listRoots reads the tree of roots. Each subvolume has an item that describes it. Unless it was
// destroyed, it also has a reference to its parent directory. The item sorts before the reference.
func listRoots(f *os.File) ([]root, error) {
	var roots []root
	var current root
	first, last := key{firstFreeObjectID, 0, 0}, key{lastFreeObjectID, rootBackrefKey, ^uint64(0)}
	err := search(f, rootTree, first, last, func(it item) bool {
		switch it.typ {
		case rootItemKey:
			current = parseRootItem(it)
		case rootBackrefKey:
			if current.id == it.object {
				ref := parseRootRef(it.data)
				ref.id, ref.parentID = it.object, it.offset
				current.rootRef = ref
				roots = append(roots, current)
			}
		}
		return true
	})
	return roots, err
}

// listRootIDs returns every subvolume that has a root item. That includes subvolumes that were
// destroyed and that the kernel has not cleaned up yet: dropping reports whether there are any.
func listRootIDs(f *os.File) (ids map[uint64]bool, dropping bool, err error) {
	ids = map[uint64]bool{}
	first, last := key{firstFreeObjectID, 0, 0}, key{lastFreeObjectID, rootItemKey, ^uint64(0)}
	err = search(f, rootTree, first, last, func(it item) bool {
		if it.typ == rootItemKey {
			ids[it.object] = true
			dropping = dropping || uint32(field64(it.data, rootItemRefs)) == 0 // __le32
		}
		return true
	})
	return ids, dropping, err
}

// childrenOf returns the subvolumes directly in the subvolume id.
func childrenOf(f *os.File, id uint64) ([]rootRef, error) {
	var children []rootRef
	err := search(f, rootTree, key{id, rootRefKey, 0}, key{id, rootRefKey, ^uint64(0)}, func(it item) bool {
		ref := parseRootRef(it.data)
		ref.id, ref.parentID = it.offset, it.object
		children = append(children, ref)
		return true
	})
	return children, err
}

// Offsets in struct btrfs_root_item and struct btrfs_root_ref (linux/btrfs_tree.h, packed).
const (
	rootItemInodeSize  = 160
	rootItemFlags      = rootItemInodeSize + 48
	rootItemRefs       = rootItemFlags + 8 // 0 after the destruction
	rootItemUUID       = 247
	rootItemParentUUID = rootItemUUID + 16

	rootRefNameLen = 16
	rootRefName    = 18 // follows the struct
)

func parseRootItem(it item) root {
	r := root{rootRef: rootRef{id: it.object}}
	r.readOnly = field64(it.data, rootItemFlags)&rootFlagReadOnly != 0
	if len(it.data) >= rootItemParentUUID+16 { // items from before Linux 3.6 are shorter
		copy(r.uuid[:], it.data[rootItemUUID:])
		copy(r.parentUUID[:], it.data[rootItemParentUUID:])
	}
	return r
}

func parseRootRef(data []byte) rootRef {
	if len(data) < rootRefName {
		return rootRef{}
	}
	end := rootRefName + int(binary.LittleEndian.Uint16(data[rootRefNameLen:]))
	return rootRef{dirID: field64(data, 0), name: string(data[rootRefName:min(end, len(data))])}
}

// lookupDirectory returns the path of a directory within its subvolume, with a slash at the end.
// The path of the root of the subvolume is empty.
func lookupDirectory(f *os.File, subvolume, inode uint64) (string, error) {
	if inode == firstFreeObjectID {
		return "", nil
	}
	args := inoLookupArgs{TreeID: subvolume, ObjectID: inode}
	if err := ioctl(f, iocInoLookup, unsafe.Pointer(&args)); err != nil {
		return "", err
	}
	return unix.ByteSliceToString(args.Name[:]), nil
}
