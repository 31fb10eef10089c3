package btrfs

import (
	"encoding/binary"
	"errors"
	"math"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Trees and item types of linux/btrfs_tree.h.
const (
	rootTree  = 1 // BTRFS_ROOT_TREE_OBJECTID
	fsTree    = 5 // BTRFS_FS_TREE_OBJECTID: the top of the filesystem
	quotaTree = 8 // BTRFS_QUOTA_TREE_OBJECTID

	rootItemKey     = 132
	rootBackrefKey  = 144
	rootRefKey      = 156
	qgroupStatusKey = 240
	qgroupInfoKey   = 242
	qgroupLimitKey  = 244

	lastFreeObjectID = math.MaxUint64 - 255 // BTRFS_LAST_FREE_OBJECTID, -256
)

// searchSize limits the result of one search call. The kernel and the garbage collector touch the
// whole buffer. The kernel also looks at every item of the leaf that holds the last result, unless
// the requested number of items is reached.
type searchSize struct {
	bytes int // buffer size, a multiple of 8; a longer item is EOVERFLOW
	items uint32
}

const searchBufferSize = 64 << 10

var (
	// manyItems holds about 900 qgroup items. If a call fills it, search calls the kernel again.
	manyItems = searchSize{searchBufferSize, math.MaxUint32}
	// oneItem holds any item of the quota tree. The largest one has 40 bytes, after its header.
	oneItem = searchSize{256, 1}
)

// key is the position of an item in a tree. Trees are sorted by object, then type, then offset.
type key struct {
	object uint64
	typ    uint32
	offset uint64
}

// item is one item of a tree. data is valid only during the visit.
type item struct {
	key
	data []byte
}

// search visits the items of a tree with keys from first to last, in order, until visit returns
// false. A tree that does not exist is ENOENT. The range compares whole keys, so search also visits
// items of other types between first and last.
func search(f *os.File, tree uint64, first, last key, visit func(item) bool) error {
	return searchWith(manyItems, f, tree, first, last, visit)
}

func searchWith(size searchSize, f *os.File, tree uint64, first, last key, visit func(item) bool) error {
	buffer := make([]uint64, (int(unsafe.Sizeof(searchArgsV2Head{}))+size.bytes)/8) // uint64 for the alignment
	head := (*searchArgsV2Head)(unsafe.Pointer(&buffer[0]))
	found := unsafe.Slice((*byte)(unsafe.Pointer(&buffer[unsafe.Sizeof(*head)/8])), size.bytes)
	for next, more := first, true; more; {
		*head = searchArgsV2Head{
			Key: searchKey{
				TreeID:      tree,
				MinObjectID: next.object, MinType: next.typ, MinOffset: next.offset,
				MaxObjectID: last.object, MaxType: last.typ, MaxOffset: last.offset,
				MaxTransID: math.MaxUint64,
				NrItems:    size.items,
			},
			BufSize: uint64(size.bytes),
		}
		if err := ioctl(f, iocTreeSearchV2, unsafe.Pointer(&buffer[0])); err != nil {
			return err
		}
		if head.Key.NrItems == 0 {
			return nil
		}
		at, ok := visitItems(found, int(head.Key.NrItems), visit)
		if !ok {
			return nil
		}
		next, more = at.following()
	}
	return nil
}

// searchOne returns a copy of the data of the item at k in the quota tree, and whether the item
// exists.
func searchOne(f *os.File, k key) ([]byte, bool, error) {
	var data []byte
	found := false
	err := searchWith(oneItem, f, quotaTree, k, k, func(it item) bool {
		data, found = append(data, it.data...), true
		return false
	})
	return data, found, err
}

// visitItems visits count items in buffer. It returns the key of the last one, and whether to
// continue.
func visitItems(buffer []byte, count int, visit func(item) bool) (key, bool) {
	const headerSize = int(unsafe.Sizeof(searchHeader{}))
	var last key
	for at, n := 0, 0; n < count; n++ {
		// Headers follow items of any length and may be unaligned: copy them.
		var header searchHeader
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&header)), headerSize), buffer[at:])
		at += headerSize
		last = key{object: header.ObjectID, typ: header.Type, offset: header.Offset}
		if !visit(item{key: last, data: buffer[at : at+int(header.Len)]}) {
			return last, false
		}
		at += int(header.Len)
	}
	return last, true
}

// following returns the smallest key greater than k, if there is one.
func (k key) following() (key, bool) {
	const maxType = math.MaxUint8 // types have 8 bits on disk
	switch {
	case k.offset < math.MaxUint64:
		return key{k.object, k.typ, k.offset + 1}, true
	case k.typ < maxType:
		return key{k.object, k.typ + 1, 0}, true
	case k.object < math.MaxUint64:
		return key{k.object + 1, 0, 0}, true
	}
	return key{}, false
}

// field64 reads the little-endian number at a byte offset of an item. It returns 0 if the item is
// shorter.
func field64(data []byte, offset int) uint64 {
	if len(data) < offset+8 {
		return 0
	}
	return binary.LittleEndian.Uint64(data[offset:])
}

func noSuchTree(err error) bool { return errors.Is(err, unix.ENOENT) }
