package migrate

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
)

// The older agent exported the directory above the data. While root reads and writes there, a
// client that has it mounted can replace any file in it. It can put a symbolic link, a FIFO or a
// device there. So all access uses descriptors, and follows no links: see openat2.

// writeFile replaces name, of any type, by a file. Users who could read a file there can read the
// new one.
func writeFile(dir *os.File, name string, content []byte) error {
	temporary := name + ondisk.TemporarySuffix
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

// remove removes name. A missing file is no error.
func remove(dir *os.File, name string) error {
	if err := unix.Unlinkat(int(dir.Fd()), name, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &fs.PathError{Op: "unlink", Path: dir.Name() + "/" + name, Err: err}
	}
	return nil
}
