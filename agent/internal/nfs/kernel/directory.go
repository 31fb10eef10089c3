package kernel

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// place tells one directory from another. Inode and mountRoot are what the kernel makes file handles
// of; each subvolume has its own device number.
type place struct {
	inode     uint64
	mountRoot bool
	device    uint64
}

// inspect looks at a directory that is to be exported.
func inspect(path string) (place, error) {
	var stat unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO|unix.STATX_TYPE, &stat)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return place{}, nfs.ErrNotFound
	case err != nil:
		return place{}, fmt.Errorf("%w: statx: %w", nfs.ErrUnavailable, err)
	case stat.Mode&unix.S_IFMT != unix.S_IFDIR:
		return place{}, fmt.Errorf("%w: not a directory", nfs.ErrInvalid)
	}
	return place{
		inode:     stat.Ino,
		mountRoot: stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0,
		device:    unix.Mkdev(stat.Dev_major, stat.Dev_minor),
	}, nil
}
