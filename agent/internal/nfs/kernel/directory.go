package kernel

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// directory identifies a directory. The kernel makes file handles from inode and mountRoot. Each
// subvolume has its own device number.
type directory struct {
	inode     uint64
	mountRoot bool
	device    uint64
}

// statDirectory calls statx for a directory that is to be exported.
func statDirectory(path string) (directory, error) {
	var stat unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO|unix.STATX_TYPE, &stat)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return directory{}, nfs.ErrNotFound
	case err != nil:
		return directory{}, fmt.Errorf("%w: statx: %w", nfs.ErrUnavailable, err)
	case stat.Mode&unix.S_IFMT != unix.S_IFDIR:
		return directory{}, fmt.Errorf("%w: not a directory", nfs.ErrInvalid)
	}
	return directory{
		inode:     stat.Ino,
		mountRoot: stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0,
		device:    unix.Mkdev(stat.Dev_major, stat.Dev_minor),
	}, nil
}
