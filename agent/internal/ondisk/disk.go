package ondisk

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
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/google/uuid"
)

// Disk makes every system call that changes volumes and snapshots. Each one follows a fail point.
// It uses descriptors below the base directory and follows no symbolic link.
type Disk struct {
	*pool.Pool
}

// Open opens a directory below the base directory.
func (d *Disk) Open(path string) (*os.File, error) {
	return beneath.OpenDir(d.Base(), path)
}

// OpenSubvolume opens and describes the data subvolume in the directory of a volume or snapshot.
func (d *Disk) OpenSubvolume(dir *os.File) (*os.File, btrfs.SubvolumeInfo, error) {
	f, err := beneath.OpenDir(dir, DataDir)
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

// Mkdir creates a directory with the mode, whatever the umask is.
func (d *Disk) Mkdir(dir *os.File, name string, mode uint32) error {
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

// Unlink removes a file. A missing file is no error.
func (d *Disk) Unlink(dir *os.File, name string) error {
	if err := d.Step("unlink", name); err != nil {
		return err
	}
	return ignoreMissing(unix.Unlinkat(int(dir.Fd()), name, 0), "unlink", name)
}

func ignoreMissing(err error, op, name string) error {
	if err == nil || IsErrno(err, unix.ENOENT) {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// Rename renames within one directory and never replaces: renameat2(2) RENAME_NOREPLACE.
func (d *Disk) Rename(dir *os.File, from, to string) error {
	if err := d.Step("rename", to); err != nil {
		return err
	}
	if err := unix.Renameat2(int(dir.Fd()), from, int(dir.Fd()), to, unix.RENAME_NOREPLACE); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// Publish renames a directory to its name. It replaces an empty directory of that name, because
// nothing is lost.
func (d *Disk) Publish(dir *os.File, stage, name string) error {
	err := d.Rename(dir, stage, name)
	if IsErrno(err, unix.EEXIST) && isEmptyDir(dir, name) && d.rmdir(dir, name) == nil {
		err = d.Rename(dir, stage, name)
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
	names, err := ReadDir(dir)
	return err == nil && len(names) == 0 && outside.Dev == inside.Dev
}

// writeFile replaces the file name. After the next commit or snapshot, the old or the new file is
// there, and never a partial one.
func (d *Disk) writeFile(dir *os.File, name string, content []byte) error {
	temporary := name + TemporarySuffix
	err := d.replaceFile(dir, name, temporary, content)
	if err != nil {
		err = errors.Join(err, d.Unlink(dir, temporary))
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
		err = errors.Join(err, d.Unlink(dir, temporary))
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

// CreateSubvolume creates the data of a volume in its directory.
func (d *Disk) CreateSubvolume(dir *os.File) error {
	if err := d.Step("create subvolume", DataDir); err != nil {
		return err
	}
	return btrfs.CreateSubvolume(dir, DataDir)
}

// Snapshot commits a transaction: see btrfs.Snapshot.
func (d *Disk) Snapshot(source, dir *os.File, readOnly bool) error {
	if err := d.Step("snapshot", DataDir); err != nil {
		return err
	}
	return btrfs.Snapshot(source, dir, DataDir, readOnly)
}

func (d *Disk) destroySubvolume(dir *os.File) error {
	if err := d.Step("destroy subvolume", DataDir); err != nil {
		return err
	}
	return beneath.IgnoreNotExist(btrfs.DestroyTree(dir, DataDir))
}

// SetStorage sets how new data is stored. btrfs refuses compression together with NoCOW, so
// setStorage first removes the old setting and then adds the new one.
func (d *Disk) SetStorage(f *os.File, p Properties) error {
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

// Chown does not change an ID that is -1.
func (d *Disk) Chown(f *os.File, uid, gid int64) error {
	if err := d.Step("chown", f.Name()); err != nil {
		return err
	}
	return f.Chown(int(uid), int(gid))
}

// Chmod sets the permission bits.
func (d *Disk) Chmod(f *os.File, mode uint32) error {
	if err := d.Step("chmod", f.Name()); err != nil {
		return err
	}
	return unix.Fchmod(int(f.Fd()), mode)
}

// ErrLeftBehind means that a failed request left something that it created.
var ErrLeftBehind = errors.New("what was made cannot be removed yet")

// LeftBehind returns the error of a failed creation. cause is the failure of the creation, and err
// that of the removal, if the removal failed.
func LeftBehind(cause, err error) error {
	if err != nil {
		return errors.Join(cause, fmt.Errorf("%w: %w", ErrLeftBehind, err))
	}
	return cause
}

// Abandon removes what a failed creation left under a temporary name.
func (d *Disk) Abandon(parent *os.File, stage string, cause error) error {
	return LeftBehind(cause, d.RemoveDirectory(parent, stage))
}

// RemoveDirectory removes a directory that the agent created and the subvolume in it. It can be
// called again after a failure. It does not remove other files: the directory then stays, and the
// error says so.
func (d *Disk) RemoveDirectory(parent *os.File, name string) error {
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

// RemoveEmpty removes a directory in which the agent found no data, with its metadata. If data has
// appeared since, it keeps the data and the metadata.
func (d *Disk) RemoveEmpty(parent *os.File, name string, m Metadata) error {
	dir, err := beneath.OpenDir(parent, name)
	if err != nil {
		return beneath.IgnoreNotExist(err)
	}
	defer dir.Close()
	err = d.removeFiles(parent, dir, name)
	if IsForeign(err) {
		err = errors.Join(err, d.WriteMetadata(dir, m))
	}
	return err
}

// removeFiles removes parent/name, which is dir, with the files of the agent in it. It removes the
// metadata last, because the metadata can carry a mark.
func (d *Disk) removeFiles(parent, dir *os.File, name string) error {
	if err := d.removeClients(dir); err != nil {
		return err
	}
	for _, file := range []string{MetadataFile + TemporarySuffix, MetadataFile} {
		if err := d.Unlink(dir, file); err != nil {
			return err
		}
	}
	return d.rmdir(parent, name)
}

func (d *Disk) removeClients(dir *os.File) error {
	clients, err := beneath.OpenDir(dir, ClientsDir)
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
		if err := d.Unlink(clients, name); err != nil {
			return err
		}
	}
	return d.rmdir(dir, ClientsDir)
}

// TemporaryName returns a name that no volume can have.
func TemporaryName(prefix string) string {
	var b [inspect.RandomBytes]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	return prefix + hex.EncodeToString(b[:])
}

// takenOnDisk explains a name that is free in the catalogue and exists on disk. The agent did not
// create it.
func takenOnDisk(name string, err error) error {
	if !IsErrno(err, unix.EEXIST) {
		return err
	}
	return agentapi.Errorf(agentapi.AlreadyExists, "the storage host has a directory %q that the agent did not make: move it away, or restart the agent to see what is wrong with it", name)
}

// ReplacedOnDisk is the error of data that is another subvolume than the agent knows.
func ReplacedOnDisk(path string, want, have uuid.UUID) error {
	return agentapi.Errorf(agentapi.MetadataError, "the data of %s is subvolume %s, not %s which the agent knows: somebody replaced it; restart the agent to take it as it is", path, have, want)
}

// ReadDir lists a directory and leaves it open.
func ReadDir(dir *os.File) ([]string, error) {
	again, err := beneath.OpenDir(dir, ".")
	if err != nil {
		return nil, err
	}
	defer again.Close()
	return again.Readdirnames(-1)
}

// IsForeign recognizes a directory that still contains files that the agent did not create.
func IsForeign(err error) bool { return IsErrno(err, unix.ENOTEMPTY) }

// IsInUse recognizes a subvolume that the kernel refuses to destroy now: "btrfs send" reads it, a
// swap file in it is active, or it is the default subvolume (btrfs_delete_subvolume in
// fs/btrfs/inode.c).
func IsInUse(err error) bool { return IsErrno(err, unix.EPERM) || IsErrno(err, unix.EBUSY) }

// IsFull recognizes a filesystem that accepts no more data. Either it has no room, or a quota is
// reached, which can be that of the subvolume of the base path.
func IsFull(err error) bool { return IsErrno(err, unix.ENOSPC) || IsErrno(err, unix.EDQUOT) }

// StageSnapshot creates and opens a directory for a snapshot.
func (d *Disk) StageSnapshot(parent *os.File, stage string, m Metadata, mode uint32) (*os.File, error) {
	if err := d.Mkdir(parent, stage, mode); err != nil {
		return nil, err
	}
	dir, err := beneath.OpenDir(parent, stage)
	if err != nil {
		return nil, err
	}
	err = d.CreateMetadata(dir, m)
	if err == nil {
		err = d.Mark(dir, inspect.Creating)
	}
	if err != nil {
		dir.Close()
		return nil, err
	}
	return dir, nil
}

// FillWithSnapshot creates the snapshot in its directory.
func (d *Disk) FillWithSnapshot(dir, from *os.File, readOnly bool) (btrfs.SubvolumeInfo, error) {
	if err := d.Snapshot(from, dir, readOnly); err != nil {
		return btrfs.SubvolumeInfo{}, err
	}
	data, info, err := d.OpenSubvolume(dir)
	if err != nil {
		return btrfs.SubvolumeInfo{}, err
	}
	return info, errors.Join(data.Close(), d.ClearMark(dir))
}
