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

// mkdir creates a directory with the mode, whatever the umask is.
func (d *Disk) mkdir(dir *os.File, name string, mode uint32) error {
	if err := d.Step("mkdir", name); err != nil {
		return err
	}
	if err := unix.Mkdirat(int(dir.Fd()), name, 0o700); err != nil {
		return &fs.PathError{Op: "mkdir", Path: name, Err: err}
	}
	if mode == 0o700 {
		return nil
	}
	if err := d.Step("mode", name); err != nil {
		return err
	}
	// The mode must not depend on the umask of the process. No reasonable umask removes rights of
	// the owner.
	return unix.Fchmodat(int(dir.Fd()), name, mode, 0)
}

func (d *Disk) rmdir(dir *os.File, name string) error {
	if err := d.Step("rmdir", name); err != nil {
		return err
	}
	return ignoreMissing(unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR), "rmdir", name)
}

// unlink removes a file. A missing file is no error.
func (d *Disk) unlink(dir *os.File, name string) error {
	if err := d.Step("unlink", name); err != nil {
		return err
	}
	return ignoreMissing(unix.Unlinkat(int(dir.Fd()), name, 0), "unlink", name)
}

func ignoreMissing(err error, op, name string) error {
	if err == nil || isErrno(err, unix.ENOENT) {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// rename renames within one directory and never replaces: renameat2(2) RENAME_NOREPLACE.
func (d *Disk) rename(dir *os.File, from, to string) error {
	if err := d.Step("rename", to); err != nil {
		return err
	}
	if err := unix.Renameat2(int(dir.Fd()), from, int(dir.Fd()), to, unix.RENAME_NOREPLACE); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// writeFile replaces the file name. After the next commit or snapshot, the old or the new file is
// there, and never a partial one.
func (d *Disk) writeFile(dir *os.File, name string, content []byte) error {
	temporary := name + TemporarySuffix
	err := d.replaceFile(dir, name, temporary, content)
	if err != nil {
		err = errors.Join(err, d.unlink(dir, temporary))
	}
	return err
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
	if err := d.Step("link", name); err != nil {
		return err
	}
	temporary := name + TemporarySuffix
	if err := unix.Symlinkat(text.String(), int(dir.Fd()), temporary); err != nil {
		return &os.PathError{Op: "symlink", Path: temporary, Err: err}
	}
	err := d.replace(dir, temporary, name)
	if err != nil {
		err = errors.Join(err, d.unlink(dir, temporary))
	}
	return err
}

func (d *Disk) replaceFile(dir *os.File, name, temporary string, content []byte) error {
	if err := d.createFile(dir, temporary, content); err != nil {
		return err
	}
	return d.replace(dir, temporary, name)
}

func (d *Disk) replace(dir *os.File, temporary, name string) error {
	if err := d.Step("replace", name); err != nil {
		return err
	}
	if err := unix.Renameat(int(dir.Fd()), temporary, int(dir.Fd()), name); err != nil {
		return &os.LinkError{Op: "rename", Old: temporary, New: name, Err: err}
	}
	return nil
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
	if err := d.Step("create subvolume", DataDir); err != nil {
		return err
	}
	return btrfs.CreateSubvolume(dir, DataDir)
}

// snapshot commits a transaction: see btrfs.Snapshot.
func (d *Disk) snapshot(source, dir *os.File, readOnly bool) error {
	if err := d.Step("snapshot", DataDir); err != nil {
		return err
	}
	return btrfs.Snapshot(source, dir, DataDir, readOnly)
}

func (d *Disk) destroySubvolume(dir *os.File) error {
	if err := d.Step("destroy subvolume", DataDir); err != nil {
		return err
	}
	return openat2.IgnoreNotExist(btrfs.DestroyTree(dir, DataDir))
}

// setStorage sets how new data is stored. btrfs refuses compression together with NoCOW, so
// setStorage first removes the old setting and then adds the new one.
func (d *Disk) setStorage(f *os.File, p Properties) error {
	if err := d.Step("storage", f.Name()); err != nil {
		return err
	}
	if p.NoCOW {
		if err := btrfs.SetCompression(f, ""); err != nil {
			return err
		}
		if err := d.Step("storage, second part", f.Name()); err != nil {
			return err
		}
		return btrfs.SetNoCOW(f, true)
	}
	if err := btrfs.SetNoCOW(f, false); err != nil {
		return err
	}
	if err := d.Step("storage, second part", f.Name()); err != nil {
		return err
	}
	return btrfs.SetCompression(f, p.Compression)
}

// chown does not change an ID that is -1.
func (d *Disk) chown(f *os.File, uid, gid int64) error {
	if err := d.Step("chown", f.Name()); err != nil {
		return err
	}
	return f.Chown(int(uid), int(gid))
}

// chmod sets the permission bits.
func (d *Disk) chmod(f *os.File, mode uint32) error {
	if err := d.Step("chmod", f.Name()); err != nil {
		return err
	}
	return unix.Fchmod(int(f.Fd()), mode)
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
