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

// SetCompression says how new data of a file, or of new files in a directory, is compressed: "zstd",
// "zlib" or "lzo", with a level where the algorithm has some ("zstd:3", 1-15; "zlib:5", 1-9); "none"
// for never; "" to leave it to the directory or the mount option. What is written already stays as it
// is. Another value is EINVAL, and so is compression together with NoCOW. It is durable after the next
// Commit.
func SetCompression(f *os.File, value string) error {
	return failed("set compression", value, setCompression(f, value))
}

func setCompression(f *os.File, value string) error {
	// The kernel looks only at how the value begins, and would take "zstd:banana".
	if !validCompression(value) {
		return unix.EINVAL
	}
	if value == "" {
		err := withXattr(f, func(fd int) error { return unix.Fremovexattr(fd, compressionXattr) })
		if errors.Is(err, unix.ENODATA) {
			return nil
		}
		return err
	}
	if noCOW, err := NoCOW(f); err != nil || noCOW && value != "none" {
		return errors.Join(err, unix.EINVAL)
	}
	return withXattr(f, func(fd int) error { return unix.Fsetxattr(fd, compressionXattr, []byte(value), 0) })
}

// Compression returns what SetCompression set, "" if nothing is.
func Compression(f *os.File) (string, error) {
	value := make([]byte, 32) // the longest valid one has 7
	n := 0
	err := withXattr(f, func(fd int) (err error) {
		n, err = unix.Fgetxattr(fd, compressionXattr, value)
		return err
	})
	if errors.Is(err, unix.ENODATA) {
		return "", nil
	}
	return string(value[:max(n, 0)]), failed("compression", f.Name(), err)
}

// SetNoCOW makes data of new files in a directory be overwritten in place, without checksums and
// compression. It acts on files that are still empty, and does nothing for others. Together with
// compression it is EINVAL. It is durable after the next Commit.
func SetNoCOW(f *os.File, on bool) error {
	return failed("set nocow", f.Name(), setInodeFlag(f, noCOWFlag, on))
}

// NoCOW says whether SetNoCOW is on.
func NoCOW(f *os.File) (bool, error) {
	flags, err := inodeFlags(f)
	return flags&noCOWFlag != 0, failed("nocow", f.Name(), err)
}

// SetImmutable keeps a file from being changed, renamed or removed, even by root: chattr(1) +i.
func SetImmutable(f *os.File, on bool) error {
	return failed("set immutable", f.Name(), setInodeFlag(f, immutableFlag, on))
}

// Immutable says whether SetImmutable is on.
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
	var callErr error
	err = withFD(f, func(fd uintptr) {
		callErr = unix.IoctlSetPointerInt(int(fd), unix.FS_IOC_SETFLAGS, int(wanted))
	})
	return errors.Join(err, callErr)
}

func inodeFlags(f *os.File) (uint32, error) {
	var flags uint32
	var callErr error
	err := withFD(f, func(fd uintptr) {
		// The kernel reads and writes 32 bits, though the number of the ioctl says long.
		flags, callErr = unix.IoctlGetUint32(int(fd), unix.FS_IOC_GETFLAGS)
	})
	return flags, errors.Join(err, callErr)
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

func withXattr(f *os.File, call func(fd int) error) error {
	var callErr error
	err := withFD(f, func(fd uintptr) { callErr = call(int(fd)) })
	return errors.Join(err, callErr)
}
