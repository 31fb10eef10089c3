package btrfs

import (
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	compressionXattr = "btrfs.compression"
	// noCOWFlag is FS_NOCOW_FL of linux/fs.h.
	noCOWFlag = 0x00800000
	// immutableFlag is FS_IMMUTABLE_FL of linux/fs.h.
	immutableFlag = 0x00000010
)

// SetCompression sets the compression of new data of a file, or of new files in a directory. The
// value is "zstd", "zlib" or "lzo". zstd and zlib accept a level ("zstd:3", 1-15; "zlib:5", 1-9).
// "none" disables compression. "" leaves it to the directory or the mount option. Existing data
// does not change. Other values are EINVAL, and so is compression together with NoCOW. The change
// is durable after the next Commit.
func SetCompression(f *os.File, value string) error {
	return failed("set compression", value, setCompression(f, value))
}

func setCompression(f *os.File, value string) error {
	// The kernel checks only the beginning of the value and would accept "zstd:banana".
	if !validCompression(value) {
		return unix.EINVAL
	}
	if value == "" {
		err := withFD(f, func(fd int) error { return unix.Fremovexattr(fd, compressionXattr) })
		if errors.Is(err, unix.ENODATA) {
			return nil
		}
		return err
	}
	if noCOW, err := NoCOW(f); err != nil || noCOW && value != "none" {
		return errors.Join(err, unix.EINVAL)
	}
	return withFD(f, func(fd int) error { return unix.Fsetxattr(fd, compressionXattr, []byte(value), 0) })
}

// Compression returns the value of SetCompression, or "" if none is set.
func Compression(f *os.File) (string, error) {
	value := make([]byte, 32) // the longest valid value has 7 bytes
	n := 0
	err := withFD(f, func(fd int) (err error) {
		n, err = unix.Fgetxattr(fd, compressionXattr, value)
		return err
	})
	if errors.Is(err, unix.ENODATA) {
		return "", nil
	}
	return string(value[:max(n, 0)]), failed("compression", f.Name(), err)
}

// SetNoCOW makes new files in a directory overwrite their data in place, without checksums and
// compression. It takes effect on empty files only. Together with compression it is EINVAL. The
// change is durable after the next Commit.
func SetNoCOW(f *os.File, on bool) error {
	return failed("set nocow", f.Name(), setInodeFlag(f, noCOWFlag, on))
}

// NoCOW reports whether NoCOW is set.
func NoCOW(f *os.File) (bool, error) {
	flags, err := inodeFlags(f)
	return flags&noCOWFlag != 0, failed("nocow", f.Name(), err)
}

// SetImmutable prevents changes, renames and the removal of a file, even by root: chattr(1) +i.
func SetImmutable(f *os.File, on bool) error {
	return failed("set immutable", f.Name(), setInodeFlag(f, immutableFlag, on))
}

// Immutable reports whether the immutable flag is set.
func Immutable(f *os.File) (bool, error) {
	flags, err := inodeFlags(f)
	return flags&immutableFlag != 0, failed("immutable", f.Name(), err)
}

func setInodeFlag(f *os.File, flag uint32, on bool) error {
	flags, err := inodeFlags(f)
	if err != nil {
		return err
	}
	wanted := flags &^ flag
	if on {
		wanted |= flag
	}
	if wanted == flags {
		return nil
	}
	return withFD(f, func(fd int) error { return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(wanted)) })
}

func inodeFlags(f *os.File) (uint32, error) {
	var flags uint32
	err := withFD(f, func(fd int) (err error) {
		// The kernel reads and writes 32 bits, although the ioctl number encodes a long.
		flags, err = unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
		return err
	})
	return flags, err
}

func validCompression(value string) bool {
	if value == "" || value == "none" || value == "lzo" {
		return true
	}
	algorithm, level, hasLevel := strings.Cut(value, ":")
	maxLevel, known := map[string]int{"zlib": 9, "zstd": 15}[algorithm]
	if !known || !hasLevel {
		return known
	}
	n, err := strconv.Atoi(level)
	return err == nil && 1 <= n && n <= maxLevel && strconv.Itoa(n) == level
}
