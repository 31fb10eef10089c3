package storage

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/beneath"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/inspect"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/pool"
)

// disk makes every system call that changes volumes and snapshots. Each one follows a fail point.
// It uses descriptors below the base directory and follows no symbolic link.
type disk struct {
	*pool.Pool
}

// open opens a directory below the base directory.
func (d *disk) open(path string) (*os.File, error) {
	return beneath.OpenDir(d.Base(), path)
}

// openSubvolume opens and describes the data subvolume in the directory of a volume or snapshot.
func (d *disk) openSubvolume(dir *os.File) (*os.File, btrfs.SubvolumeInfo, error) {
	f, err := beneath.OpenDir(dir, dataDir)
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

func (d *disk) mkdir(dir *os.File, name string, mode uint32) error {
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

func (d *disk) rmdir(dir *os.File, name string) error {
	if err := d.Step("rmdir", name); err != nil {
		return err
	}
	return ignoreMissing(unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR), "rmdir", name)
}

func (d *disk) unlink(dir *os.File, name string) error {
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
func (d *disk) rename(dir *os.File, from, to string) error {
	if err := d.Step("rename", to); err != nil {
		return err
	}
	if err := unix.Renameat2(int(dir.Fd()), from, int(dir.Fd()), to, unix.RENAME_NOREPLACE); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// publish renames a directory to its name. It replaces an empty directory of that name, because
// nothing is lost.
func (d *disk) publish(dir *os.File, stage, name string) error {
	err := d.rename(dir, stage, name)
	if isErrno(err, unix.EEXIST) && isEmptyDir(dir, name) && d.rmdir(dir, name) == nil {
		err = d.rename(dir, stage, name)
	}
	return takenOnDisk(name, err)
}

// isEmptyDir reports whether name is an empty directory and not a subvolume. The device number
// tells them apart.
func isEmptyDir(parent *os.File, name string) bool {
	dir, err := beneath.OpenDir(parent, name)
	if err != nil {
		return false
	}
	defer dir.Close()
	var outside, inside unix.Stat_t
	if unix.Fstat(int(parent.Fd()), &outside) != nil || unix.Fstat(int(dir.Fd()), &inside) != nil {
		return false
	}
	names, err := readDir(dir)
	return err == nil && len(names) == 0 && outside.Dev == inside.Dev
}

// writeFile replaces the file name. After the next commit or snapshot, the old or the new file is
// there, and never a partial one.
func (d *disk) writeFile(dir *os.File, name string, content []byte) error {
	temporary := name + temporarySuffix
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
func (d *disk) writeLink(dir *os.File, name string, content []byte) error {
	var text bytes.Buffer
	if err := json.Compact(&text, content); err != nil {
		return err
	}
	if err := d.Step("link", name); err != nil {
		return err
	}
	temporary := name + temporarySuffix
	if err := unix.Symlinkat(text.String(), int(dir.Fd()), temporary); err != nil {
		return &os.PathError{Op: "symlink", Path: temporary, Err: err}
	}
	err := d.replace(dir, temporary, name)
	if err != nil {
		err = errors.Join(err, d.unlink(dir, temporary))
	}
	return err
}

func (d *disk) replaceFile(dir *os.File, name, temporary string, content []byte) error {
	if err := d.createFile(dir, temporary, content); err != nil {
		return err
	}
	return d.replace(dir, temporary, name)
}

func (d *disk) replace(dir *os.File, temporary, name string) error {
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
func (d *disk) createFile(dir *os.File, name string, content []byte) error {
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

func (d *disk) createSubvolume(dir *os.File) error {
	if err := d.Step("create subvolume", dataDir); err != nil {
		return err
	}
	return btrfs.CreateSubvolume(dir, dataDir)
}

// snapshot commits a transaction: see btrfs.Snapshot.
func (d *disk) snapshot(source, dir *os.File, readOnly bool) error {
	if err := d.Step("snapshot", dataDir); err != nil {
		return err
	}
	return btrfs.Snapshot(source, dir, dataDir, readOnly)
}

func (d *disk) destroySubvolume(dir *os.File) error {
	if err := d.Step("destroy subvolume", dataDir); err != nil {
		return err
	}
	return beneath.IgnoreNotExist(btrfs.DestroyTree(dir, dataDir))
}

// setStorage sets how new data is stored. btrfs refuses compression together with NoCOW, so
// setStorage first removes the old setting and then adds the new one.
func (d *disk) setStorage(f *os.File, p Properties) error {
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
func (d *disk) chown(f *os.File, uid, gid int64) error {
	if err := d.Step("chown", f.Name()); err != nil {
		return err
	}
	return f.Chown(int(uid), int(gid))
}

func (d *disk) chmod(f *os.File, mode uint32) error {
	if err := d.Step("chmod", f.Name()); err != nil {
		return err
	}
	return unix.Fchmod(int(f.Fd()), mode)
}

// errLeftBehind means that a failed request left something that it created.
var errLeftBehind = errors.New("what was made cannot be removed yet")

// leftBehind returns the error of a failed creation. cause is the failure of the creation, and err
// that of the removal, if the removal failed.
func leftBehind(cause, err error) error {
	if err != nil {
		return errors.Join(cause, fmt.Errorf("%w: %w", errLeftBehind, err))
	}
	return cause
}

// abandon removes what a failed creation left under a temporary name.
func (d *disk) abandon(parent *os.File, stage string, cause error) error {
	return leftBehind(cause, d.removeDirectory(parent, stage))
}

// removeDirectory removes a directory that the agent created and the subvolume in it. It can be
// called again after a failure. It does not remove other files: the directory then stays, and the
// error says so.
func (d *disk) removeDirectory(parent *os.File, name string) error {
	dir, err := beneath.OpenDir(parent, name)
	if err != nil {
		return beneath.IgnoreNotExist(err)
	}
	defer dir.Close()
	if err := d.destroySubvolume(dir); err != nil {
		return err
	}
	return d.removeFiles(parent, dir, name)
}

// removeEmpty removes a directory in which the agent found no data, with its metadata. If data has
// appeared since, it keeps the data and the metadata.
func (d *disk) removeEmpty(parent *os.File, name string, m metadata) error {
	dir, err := beneath.OpenDir(parent, name)
	if err != nil {
		return beneath.IgnoreNotExist(err)
	}
	defer dir.Close()
	err = d.removeFiles(parent, dir, name)
	if isForeign(err) {
		err = errors.Join(err, d.writeMetadata(dir, m))
	}
	return err
}

// removeFiles removes parent/name, which is dir, with the files of the agent in it. It removes the
// metadata last, because the metadata can carry a mark.
func (d *disk) removeFiles(parent, dir *os.File, name string) error {
	if err := d.removeClients(dir); err != nil {
		return err
	}
	for _, file := range []string{metadataFile + temporarySuffix, metadataFile} {
		if err := d.unlink(dir, file); err != nil {
			return err
		}
	}
	return d.rmdir(parent, name)
}

func (d *disk) removeClients(dir *os.File) error {
	clients, err := beneath.OpenDir(dir, clientsDir)
	if err != nil {
		return beneath.IgnoreNotExist(err)
	}
	defer clients.Close()
	names, err := clients.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !isRefFile(name) {
			continue // the agent did not create it
		}
		if err := d.unlink(clients, name); err != nil {
			return err
		}
	}
	return d.rmdir(dir, clientsDir)
}

// temporaryName returns a name that no volume can have.
func temporaryName(prefix string) string {
	var b [inspect.RandomBytes]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	return prefix + hex.EncodeToString(b[:])
}
