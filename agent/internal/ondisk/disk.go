package ondisk

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/openat2"
)

// openSubvolume opens and describes the data subvolume in the directory of a volume or snapshot.
func (d *Disk) openSubvolume(dir *os.File) (*os.File, btrfs.SubvolumeInfo, error) {
	f, err := openat2.OpenDir(dir, DataDir)
	if err != nil {
		return nil, btrfs.SubvolumeInfo{}, err
	}
	info, err := btrfs.Subvolume(f)
	if err != nil {
		f.Close()
		return nil, btrfs.SubvolumeInfo{}, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return f, info, nil
}

// step makes a system call after its fail point.
func (d *Disk) step(name, what string, call func() error) error {
	if err := d.Step(name, what); err != nil {
		return err
	}
	return call()
}

// makeDir creates and opens a directory.
func (d *Disk) makeDir(parent *os.File, name string, mode uint32) (*os.File, error) {
	err := d.step("mkdir", name, func() error {
		if err := unix.Mkdirat(int(parent.Fd()), name, 0o700); err != nil {
			return &fs.PathError{Op: "mkdir", Path: name, Err: err}
		}
		return nil
	})
	if err == nil && mode != 0o700 {
		// The mode must not depend on the umask of the process. No reasonable umask removes rights
		// of the owner.
		err = d.step("mode", name, func() error { return unix.Fchmodat(int(parent.Fd()), name, mode, 0) })
	}
	if err != nil {
		return nil, err
	}
	return openat2.OpenDir(parent, name)
}

func (d *Disk) rmdir(dir *os.File, name string) error {
	return d.unlinkAt("rmdir", dir, name, unix.AT_REMOVEDIR)
}

func (d *Disk) unlink(dir *os.File, name string) error { return d.unlinkAt("unlink", dir, name, 0) }

// unlinkAt removes a file or directory. A missing one is no error.
func (d *Disk) unlinkAt(step string, dir *os.File, name string, flags int) error {
	return d.step(step, name, func() error {
		if err := unix.Unlinkat(int(dir.Fd()), name, flags); err != nil && err != unix.ENOENT {
			return &fs.PathError{Op: step, Path: name, Err: err}
		}
		return nil
	})
}

// rename renames within one directory and never replaces: renameat2(2) RENAME_NOREPLACE.
func (d *Disk) rename(dir *os.File, from, to string) error {
	return d.step("rename", to, func() error { return renameIn(dir, from, to, unix.RENAME_NOREPLACE) })
}

func renameIn(dir *os.File, from, to string, flags uint) error {
	if err := unix.Renameat2(int(dir.Fd()), from, int(dir.Fd()), to, flags); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// writeFile replaces the file name. After the next commit or snapshot, the old or the new file is
// there, and never a partial one.
func (d *Disk) writeFile(dir *os.File, name string, content []byte) error {
	return d.replace(dir, name, func(temporary string) error { return d.createFile(dir, temporary, content) })
}

// writeLink is writeFile for a pool without room for data. The content becomes the text of a
// symbolic link, which needs only metadata. For a file, btrfs reserves room for data
// (btrfs_check_data_free_space) even if it then stores the file inline. The text has at most 4095
// bytes: symlink(2).
func (d *Disk) writeLink(dir *os.File, name string, content []byte) error {
	var text bytes.Buffer
	if err := json.Compact(&text, content); err != nil {
		return err
	}
	return d.replace(dir, name, func(temporary string) error {
		return d.step("link", name, func() error {
			if err := unix.Symlinkat(text.String(), int(dir.Fd()), temporary); err != nil {
				return &os.PathError{Op: "symlink", Path: temporary, Err: err}
			}
			return nil
		})
	})
}

// replace replaces the file name with the one that create makes under a temporary name.
func (d *Disk) replace(dir *os.File, name string, create func(temporary string) error) error {
	temporary := name + TemporarySuffix
	err := create(temporary)
	if err == nil {
		err = d.step("replace", name, func() error { return renameIn(dir, temporary, name, 0) })
	}
	if err != nil {
		err = errors.Join(err, d.unlink(dir, temporary))
	}
	return err
}

// createFile writes a file under a temporary name, or in a directory under a temporary name. A
// power cut may leave any part of the file.
func (d *Disk) createFile(dir *os.File, name string, content []byte) error {
	if err := d.Step("write", name); err != nil {
		return err
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &fs.PathError{Op: "create", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if err := d.Step("fill", name); err != nil {
		return err
	}
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := d.Step("flush", name); err != nil {
		return err
	}
	return btrfs.FlushFile(f)
}

// createSubvolume creates the data of a volume in its directory.
func (d *Disk) createSubvolume(dir *os.File) error {
	return d.step("create subvolume", DataDir, func() error { return btrfs.CreateSubvolume(dir, DataDir) })
}

// snapshot commits a transaction: see btrfs.Snapshot.
func (d *Disk) snapshot(source, dir *os.File, readOnly bool) error {
	return d.step("snapshot", DataDir, func() error { return btrfs.Snapshot(source, dir, DataDir, readOnly) })
}

func (d *Disk) destroySubvolume(dir *os.File) error {
	return d.step("destroy subvolume", DataDir, func() error {
		return openat2.IgnoreNotExist(btrfs.DestroyTree(dir, DataDir))
	})
}

// setStorage sets how new data is stored. btrfs refuses compression together with NoCOW, so
// setStorage first removes the old setting and then adds the new one.
func (d *Disk) setStorage(f *os.File, p Properties) error {
	remove := func() error { return btrfs.SetNoCOW(f, false) }
	add := func() error { return btrfs.SetCompression(f, p.Compression) }
	if p.NoCOW {
		remove = func() error { return btrfs.SetCompression(f, "") }
		add = func() error { return btrfs.SetNoCOW(f, true) }
	}
	if err := d.step("storage", f.Name(), remove); err != nil {
		return err
	}
	return d.step("storage, second part", f.Name(), add)
}

// chown does not change an ID that is -1.
func (d *Disk) chown(f *os.File, uid, gid int64) error {
	return d.step("chown", f.Name(), func() error { return f.Chown(int(uid), int(gid)) })
}

func (d *Disk) chmod(f *os.File, mode uint32) error {
	return d.step("chmod", f.Name(), func() error { return unix.Fchmod(int(f.Fd()), mode) })
}

// readDir lists a directory and leaves it open.
func readDir(dir *os.File) ([]string, error) {
	again, err := openat2.OpenDir(dir, ".")
	if err != nil {
		return nil, err
	}
	defer again.Close()
	return again.Readdirnames(-1)
}
