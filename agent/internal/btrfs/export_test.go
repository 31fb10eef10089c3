package btrfs

import (
	"errors"
	"os"
)

// WithSysfs returns fs as it would be if sysfs were mounted at another place.
func (fs *FS) WithSysfs(path string) *FS {
	return &FS{dir: fs.dir, sysfs: path, fsid: fs.fsid}
}

// StoredInline shows whether a file's content is in the tree.
var StoredInline = storedInline

// Subvolumes are listed in calls of this many bytes.
const SearchBufferSize = searchBufferSize

// EndNudges is what Close waits with.
var EndNudges = endNudges

// IsSubvolume says whether f is the root directory of a subvolume.
func IsSubvolume(f *os.File) (bool, error) {
	err := requireSubvolume(f)
	if errors.Is(err, ErrNotSubvolume) || errors.Is(err, ErrNotBtrfs) {
		return false, nil
	}
	return err == nil, failed("stat", f.Name(), err)
}
