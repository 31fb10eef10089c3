package btrfs

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"
)

// SubvolumeState holds properties of a subvolume that an administrator of the host can change by
// hand.
type SubvolumeState struct {
	ReadOnly bool
	Nested   bool // it contains subvolumes directly
}

// SubvolumeStates reads the states of all subvolumes, by ID. It reads only the tree of roots.
func (fs *FS) SubvolumeStates() (map[uint64]SubvolumeState, error) {
	roots, err := listRoots(fs.dir)
	if err != nil {
		return nil, failed("list subvolumes", "", err)
	}
	states := make(map[uint64]SubvolumeState, len(roots))
	for _, root := range roots {
		state := states[root.id]
		state.ReadOnly = root.readOnly
		states[root.id] = state
		parent := states[root.parentID]
		parent.Nested = true
		states[root.parentID] = parent
	}
	return states, nil
}

// NestedSubvolumes returns the relative paths of the subvolumes directly in the subvolume id, at
// most limit of them, and their total number.
func (fs *FS) NestedSubvolumes(id uint64, limit int) (paths []string, total int, err error) {
	children, err := childrenOf(fs.dir, id)
	if err != nil {
		return nil, 0, failed("list nested subvolumes", strconv.FormatUint(id, 10), err)
	}
	for _, child := range children[:min(limit, len(children))] {
		directory, err := lookupDirectory(fs.dir, id, child.dirID)
		if errors.Is(err, unix.ENOENT) {
			continue // removed in the meantime
		}
		if errors.Is(err, unix.ENAMETOOLONG) { // the path exceeds BTRFS_INO_LOOKUP_PATH_MAX
			directory, err = ".../", nil
		}
		if err != nil {
			return nil, 0, failed("list nested subvolumes", strconv.FormatUint(id, 10), err)
		}
		paths = append(paths, directory+child.name)
	}
	return paths, len(children), nil
}
