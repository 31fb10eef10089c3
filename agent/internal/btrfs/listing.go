package btrfs

import (
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"unsafe"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// SubvolumeRef is one subvolume of a filesystem, as the tree of roots shows it.
type SubvolumeRef struct {
	ID         uint64
	ParentID   uint64 // the subvolume that contains it
	UUID       uuid.UUID
	ParentUUID uuid.UUID // the source if it is a snapshot; otherwise zero
	ReadOnly   bool
	Path       string // slash-separated, relative to the top of the filesystem (not to the mount point)
}

// Subvolumes lists all subvolumes except the top of the filesystem, in the order of their IDs. It
// omits destroyed subvolumes that the kernel has not cleaned up yet. It reads only the tree of
// roots and the names of directories, so its cost depends on the number of subvolumes, not of
// files. It may or may not see concurrent creations, renames and removals.
func (fs *FS) Subvolumes() ([]SubvolumeRef, error) {
	roots, err := listRoots(fs.dir)
	if err != nil {
		return nil, failed("list subvolumes", "", err)
	}
	paths := pathResolver{dir: fs.dir, roots: roots.byID(), known: map[uint64]string{fsTree: ""}}
	subvolumes := make([]SubvolumeRef, 0, len(roots))
	for _, root := range roots {
		path, err := paths.of(root.id)
		if errors.Is(err, unix.ENOENT) {
			continue // destroyed in the meantime
		}
		if err != nil {
			return nil, failed("list subvolumes", "", err)
		}
		subvolumes = append(subvolumes, SubvolumeRef{
			ID: root.id, ParentID: root.parentID, UUID: root.uuid, ParentUUID: root.parentUUID,
			ReadOnly: root.readOnly, Path: path,
		})
	}
	return subvolumes, nil
}

// SubvolumesNamed lists the subvolumes called name in the subvolume that contains dir. The key is
// the inode number of the directory that holds each one. Path is empty. It reads only the tree of
// roots, about 140 subvolumes per system call, and does not open the subvolumes.
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
			found[root.dirID] = SubvolumeRef{
				ID: root.id, ParentID: root.parentID, UUID: root.uuid, ParentUUID: root.parentUUID, ReadOnly: root.readOnly,
			}
		}
	}
	return found, nil
}

// PathOf returns the path of the directory dir from the top of the filesystem. The paths of
// Subvolumes start with it for subvolumes below dir. The path of the top is "".
func (fs *FS) PathOf(dir *os.File) (string, error) {
	path, err := fs.pathOf(dir)
	return path, failed("path of", dir.Name(), err)
}

func (fs *FS) pathOf(dir *os.File) (string, error) {
	inode, isDir, err := stat(dir)
	if err != nil {
		return "", err
	}
	if !isDir {
		return "", unix.ENOTDIR
	}
	info, err := ContainingSubvolume(dir)
	if err != nil {
		return "", err
	}
	roots, err := listRoots(fs.dir)
	if err != nil {
		return "", err
	}
	paths := pathResolver{dir: fs.dir, roots: roots.byID(), known: map[uint64]string{fsTree: ""}}
	subvolume, err := paths.of(info.ID)
	if err != nil {
		return "", err
	}
	directory, err := lookupDirectory(dir, info.ID, inode)
	return strings.TrimSuffix(join(subvolume, directory), "/"), err
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

type rootList []root

func (l rootList) byID() map[uint64]root {
	m := make(map[uint64]root, len(l))
	for _, r := range l {
		m[r.id] = r
	}
	return m
}

// listRoots reads the tree of roots. Each subvolume has an item that describes it. Unless it was
// destroyed, it also has a reference to its parent directory. The item sorts before the reference.
func listRoots(f *os.File) (rootList, error) {
	var roots rootList
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

// pathResolver builds paths from references, once for each subvolume.
type pathResolver struct {
	dir   *os.File
	roots map[uint64]root
	known map[uint64]string
}

func (p *pathResolver) of(id uint64) (string, error) {
	if path, ok := p.known[id]; ok {
		return path, nil
	}
	root, ok := p.roots[id]
	if !ok {
		return "", unix.ENOENT
	}
	parent, err := p.of(root.parentID)
	if err != nil {
		return "", err
	}
	directory, err := lookupDirectory(p.dir, root.parentID, root.dirID)
	if err != nil {
		return "", err
	}
	path := join(parent, directory+root.name)
	p.known[id] = path
	return path, nil
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
	return cString(args.Name[:]), nil
}

func join(parent, child string) string {
	if parent == "" {
		return child
	}
	return parent + "/" + child
}
