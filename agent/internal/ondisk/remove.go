package ondisk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/openat2"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// Remove renames the directory of a volume or snapshot to a temporary name, and destroys its
// contents. The caller commits both together. Maintenance and the next start remove what a crash or
// a failure leaves. The data must be the subvolume with that UUID, or missing.
//
// Remove also succeeds if the data is in use on the storage host. The name becomes free, and
// maintenance removes the data when the use has ended.
func (d *Directory) Remove(name string, data uuid.UUID) error {
	o, err := d.Open(name, data)
	switch {
	case err == nil:
		o.Close()
	case errors.Is(err, btrfs.ErrNotSubvolume):
		return agentapi.Errorf(agentapi.MetadataError, "%s/%s is not a subvolume: somebody replaced it", name, DataDir)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return d.remove(name)
}

// remove does the rest of Remove. A filesystem that is too full for a rename still sets times,
// destroys subvolumes and unlinks files (measured: btrfs lets these operations use its global
// reserve). In that case the mark Deleting replaces the temporary name.
func (d *Directory) remove(name string) error {
	temporary := d.disk.newTemporaryName(trashPrefix)
	defer d.disk.active.Delete(temporary)
	err := d.disk.rename(d.dir, name, temporary)
	if isErrno(err, unix.ENOSPC) {
		temporary, err = name, d.markDeleting(name)
	}
	if err != nil {
		return err
	}
	err = d.removeDirectory(temporary)
	switch path := d.Path(temporary); {
	case err == nil:
		return nil
	case temporary == name: // the name stays taken
		return err
	case isInUse(err):
		d.disk.Log.Warn("deleted what is in use on the storage host: its data is removed later", "path", path, "error", err)
		d.disk.pending.Store(path, true)
		return nil
	case isForeign(err):
		d.disk.Log.Warn("a deleted directory holds what the agent did not put there, and stays", "path", path, "error", err)
		return nil
	default:
		return err
	}
}

// Abandon removes what a failed creation left under its name, and returns the error of the
// creation. As in a deletion, the name goes first: a kill must not leave a directory without data
// under it. The mark shows that the data in a temporary directory belongs to the agent.
func (d *Directory) Abandon(name string, cause error) error {
	err := d.markDeleting(name)
	if err == nil {
		err = d.remove(name)
	}
	return leftBehind(cause, err)
}

// ErrLeftBehind means that a failed request left something that it created.
var ErrLeftBehind = errors.New("what was made cannot be removed yet")

// leftBehind returns the error of a failed creation. cause is the failure of the creation, and err
// that of the removal, if the removal failed.
func leftBehind(cause, err error) error {
	if err != nil {
		return errors.Join(cause, fmt.Errorf("%w: %w", ErrLeftBehind, err))
	}
	return cause
}

func (d *Directory) markDeleting(name string) error {
	dir, err := openat2.OpenDir(d.dir, name)
	if err != nil {
		return err
	}
	defer dir.Close()
	return d.disk.mark(dir, Deleting)
}

// isInUse recognizes a subvolume that the kernel refuses to destroy now: "btrfs send" reads it, a
// swap file in it is active, or it is the default subvolume (btrfs_delete_subvolume in
// fs/btrfs/inode.c).
func isInUse(err error) bool { return isErrno(err, unix.EPERM) || isErrno(err, unix.EBUSY) }

// isForeign recognizes a directory that still contains files that the agent did not create.
func isForeign(err error) bool { return isErrno(err, unix.ENOTEMPTY) }

// removeTemporary removes the remains of an interrupted change under a temporary name. It keeps
// what the agent did not create.
func (d *Directory) removeTemporary(name string) {
	if f := d.inspect(name); f.state != notOurs {
		_ = d.removeLeftover(name, f) // logged, and tried again by maintenance
	}
}

// removeLeftover removes a directory that is incomplete or partly deleted.
func (d *Directory) removeLeftover(name string, f inspected) error {
	kind := InterruptedCreation
	if f.state == interruptedDeletion {
		kind = InterruptedDeletion
	}
	path := d.dir.Name() + "/" + name
	return d.disk.Repair(Finding{Kind: kind, Path: path}, func() error {
		err := d.finishRemoval(name, f)
		if isInUse(err) && f.place == trash {
			d.disk.pending.Store(path, true)
		}
		return err
	})
}

// finishRemoval removes all that the agent created of a leftover. A directory without data that has
// the name of a volume gets a temporary name first. If an administrator restores the data just
// before, the data moves with the directory, and comes back with it: classify keeps data next to
// the mark Creating.
func (d *Directory) finishRemoval(name string, f inspected) error {
	if f.state == interruptedDeletion || f.place != named {
		return d.removeDirectory(name)
	}
	temporary := d.disk.newTemporaryName(trashPrefix)
	defer d.disk.active.Delete(temporary)
	err := d.disk.rename(d.dir, name, temporary)
	if isErrno(err, unix.ENOSPC) {
		return d.removeEmpty(name, f.metadata)
	}
	if err != nil {
		return err
	}
	if again := d.inspect(temporary); again.data != noData {
		return d.disk.rename(d.dir, temporary, name)
	}
	return d.removeEmpty(temporary, f.metadata)
}

// removeDirectory removes a directory that the agent created and the subvolume in it. It can be
// called again after a failure. It does not remove other files: the directory then stays, and the
// error says so.
func (d *Directory) removeDirectory(name string) error {
	dir, err := openat2.OpenDir(d.dir, name)
	if err != nil {
		return openat2.IgnoreNotExist(err)
	}
	defer dir.Close()
	if err := d.disk.destroySubvolume(dir); err != nil {
		return err
	}
	return d.removeFiles(dir, name)
}

// removeEmpty removes a directory in which the agent found no data, with its metadata. If data has
// appeared since, it keeps the data and the metadata.
func (d *Directory) removeEmpty(name string, m Metadata) error {
	dir, err := openat2.OpenDir(d.dir, name)
	if err != nil {
		return openat2.IgnoreNotExist(err)
	}
	defer dir.Close()
	err = d.removeFiles(dir, name)
	if isForeign(err) {
		err = errors.Join(err, d.disk.writeMetadata(dir, m))
	}
	return err
}

// removeFiles removes the directory name, which is dir, with the files of the agent in it. It
// removes the metadata last, because the metadata can carry a mark.
func (d *Directory) removeFiles(dir *os.File, name string) error {
	if err := d.disk.removeClients(dir); err != nil {
		return err
	}
	for _, file := range []string{MetadataFile + TemporarySuffix, MetadataFile} {
		if err := d.disk.unlink(dir, file); err != nil {
			return err
		}
	}
	return d.disk.rmdir(d.dir, name)
}

func (d *Disk) removeClients(dir *os.File) error {
	clients, err := openat2.OpenDir(dir, ClientsDir)
	if err != nil {
		return openat2.IgnoreNotExist(err)
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
	return d.rmdir(dir, ClientsDir)
}

// PendingDeletions returns how many deleted directories still take space, because their data is in
// use.
func (d *Disk) PendingDeletions() (n int) {
	d.pending.Range(func(path, _ any) bool {
		if _, err := os.Lstat(path.(string)); errors.Is(err, fs.ErrNotExist) {
			d.pending.Delete(path)
		} else {
			n++
		}
		return true
	})
	return n
}
