package btrfs

import (
	"errors"
	"os"
)

// WithSysfs returns fs with another mount point of sysfs.
func (fs *FS) WithSysfs(path string) *FS {
	return &FS{dir: fs.dir, sysfs: path, fsid: fs.fsid}
}

// StoredInline exports storedInline.
var StoredInline = storedInline

// SearchBufferSize is how many bytes one call of the tree search returns at most.
const SearchBufferSize = searchBufferSize

// EndNudges exports endNudges, which Close calls.
var EndNudges = endNudges

// IsSubvolume reports whether f is the root directory of a subvolume.
func IsSubvolume(f *os.File) (bool, error) {
	err := requireSubvolume(f)
	if errors.Is(err, ErrNotSubvolume) || errors.Is(err, ErrNotBtrfs) {
		return false, nil
	}
	return err == nil, failed("stat", f.Name(), err)
}
