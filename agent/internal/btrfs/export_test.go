package btrfs

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
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

// DestroySubvolume removes the subvolume name from dir, but none in it.
func DestroySubvolume(dir *os.File, name string) error {
	return failed("destroy subvolume", name, destroySubvolume(dir, name))
}

// DestroySubvolumeID is DestroySubvolume by ID.
func (fs *FS) DestroySubvolumeID(id uint64) error { return destroyByID(fs.dir, id) }

// DisableQuota disables quotas, and removes all numbers and limits.
func (fs *FS) DisableQuota() error {
	args := quotaCtlArgs{Cmd: quotaCtlDisable}
	err := ioctl(fs.dir, iocQuotaCtl, unsafe.Pointer(&args))
	if errors.Is(err, unix.ENOTCONN) {
		return nil
	}
	return err
}

const quotaCtlDisable = 2 // BTRFS_QUOTA_CTL_DISABLE

// IsSubvolume reports whether f is the root directory of a subvolume.
func IsSubvolume(f *os.File) (bool, error) {
	err := requireSubvolume(f)
	if errors.Is(err, ErrNotSubvolume) || errors.Is(err, ErrNotBtrfs) {
		return false, nil
	}
	return err == nil, failed("stat", f.Name(), err)
}
