package migrate

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// The older agent exported the directory above the data. A client that has it mounted can put a symbolic link, a FIFO or a device in place of
// anything in it, at any time, while root reads and writes there. So all of that goes through descriptors, and follows nothing.

// maxMetadataBytes is what the agent reads too: anything longer was not written by an agent.
const maxMetadataBytes = 1 << 20

// openBeneath opens a directory. Nothing on the way may be a symbolic link or a mount point: openat2(2).
func openBeneath(dir *os.File, path string) (*os.File, error) {
	return openat2(dir, path, unix.O_RDONLY|unix.O_DIRECTORY)
}

// openRegular opens a file for reading. What it is, is known before it is opened: to open a device can do something, and a FIFO waits.
func openRegular(dir *os.File, name string) (*os.File, error) {
	path, err := openat2(dir, name, unix.O_PATH)
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
	return os.Open(fmt.Sprintf("/proc/self/fd/%d", path.Fd())) // of this very file: proc_pid_fd(5)
}

func openat2(dir *os.File, path string, flags uint64) (*os.File, error) {
	fd, err := unix.Openat2(int(dir.Fd()), path, &unix.OpenHow{
		Flags:   unix.O_NOFOLLOW | unix.O_CLOEXEC | flags,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dir.Name() + "/" + path, Err: err}
	}
	return os.NewFile(uintptr(fd), dir.Name()+"/"+path), nil
}

func readFile(dir *os.File, name string) ([]byte, error) {
	f, err := openRegular(dir, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxMetadataBytes+1))
	if err == nil && len(content) > maxMetadataBytes {
		err = fmt.Errorf("%s is longer than %d bytes", name, maxMetadataBytes)
	}
	return content, err
}

// writeFile puts a whole file in place of name, whatever that is. Who could read a file there can read the new one.
func writeFile(dir *os.File, name string, content []byte) error {
	temporary := name + temporarySuffix
	if err := remove(dir, temporary); err != nil {
		return err
	}
	mode := uint32(0o600)
	var was unix.Stat_t
	if unix.Fstatat(int(dir.Fd()), name, &was, unix.AT_SYMLINK_NOFOLLOW) == nil && was.Mode&unix.S_IFMT == unix.S_IFREG {
		mode |= was.Mode & 0o044
	}
	fd, err := unix.Openat(int(dir.Fd()), temporary, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, mode)
	if err != nil {
		return &fs.PathError{Op: "create", Path: dir.Name() + "/" + temporary, Err: err}
	}
	f := os.NewFile(uintptr(fd), dir.Name()+"/"+temporary)
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, remove(dir, temporary))
	}
	if err := unix.Renameat(int(dir.Fd()), temporary, int(dir.Fd()), name); err != nil {
		return errors.Join(&os.LinkError{Op: "rename", Old: f.Name(), New: name, Err: err}, remove(dir, temporary))
	}
	return nil
}

// remove is content when name is not there.
func remove(dir *os.File, name string) error {
	if err := unix.Unlinkat(int(dir.Fd()), name, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &fs.PathError{Op: "unlink", Path: dir.Name() + "/" + name, Err: err}
	}
	return nil
}
