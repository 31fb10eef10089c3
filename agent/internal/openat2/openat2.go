// Package openat2 opens files in a directory that others can write to, with openat2(2). A local
// user can replace anything there at any time, by a symbolic link, a mount, a FIFO or a device. So
// it opens everything relative to descriptors and follows no link.
package openat2

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// MaxBytes is the maximum size that ReadFile reads. 32 labels take 6 KiB, and an agent writes no
// larger files.
const MaxBytes = 1 << 20

// OpenDir opens a directory. The path may have several elements.
func OpenDir(dir *os.File, path string) (*os.File, error) {
	return open(dir, path, unix.O_RDONLY|unix.O_DIRECTORY)
}

// OpenFile opens a regular file for reading. It checks the type first, because opening a device can
// have effects, and opening a FIFO blocks.
func OpenFile(dir *os.File, name string) (*os.File, error) {
	path, err := open(dir, name, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	defer path.Close()
	info, err := path.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path.Name())
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", path.Fd()), unix.O_RDONLY|unix.O_CLOEXEC, 0) // the same file: proc_pid_fd(5)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), path.Name()), nil
}

// ReadFile reads a whole regular file of at most MaxBytes.
func ReadFile(dir *os.File, name string) ([]byte, error) {
	f, err := OpenFile(dir, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ReadAll(f)
}

// ReadAll reads an open file of at most MaxBytes from its current offset.
func ReadAll(f *os.File) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(f, MaxBytes+1))
	if err == nil && len(content) > MaxBytes {
		err = fmt.Errorf("%s is longer than %d bytes", f.Name(), MaxBytes)
	}
	return content, err
}

func open(dir *os.File, path string, flags uint64) (*os.File, error) {
	how := unix.OpenHow{
		Flags:   unix.O_NOFOLLOW | unix.O_CLOEXEC | flags,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	name := dir.Name() + "/" + path
	opened, err := openat2(dir, path, &how)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(opened), name), nil
}

// openat2 holds dir open until the call has returned.
func openat2(dir *os.File, path string, how *unix.OpenHow) (opened int, err error) {
	conn, err := dir.SyscallConn()
	if err != nil {
		return -1, err
	}
	closed := conn.Control(func(fd uintptr) {
		for {
			opened, err = unix.Openat2(int(fd), path, how)
			// EAGAIN means a concurrent rename (openat2(2)).
			if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
				return
			}
		}
	})
	if closed != nil {
		return -1, os.ErrClosed
	}
	return opened, err
}

// IgnoreNotExist returns err, but nil where it says that something is not there.
func IgnoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
