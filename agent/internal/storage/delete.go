package storage

import (
	"context"
	"errors"
	"os"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/beneath"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/inspect"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// DeleteVolume deletes a volume and its data. A missing volume counts as deleted. A volume that is
// exported to clients is Busy. Snapshots and clones of the volume stay.
func (t *Tenant) DeleteVolume(ctx context.Context, name string) error {
	if err := validateName("name", name); err != nil {
		return err
	}
	return t.store.change(ctx, func(ctx context.Context) error {
		v, found := t.volumes.get(name)
		if !found {
			return nil
		}
		if err := usable(nil, v.Quarantine, v.Path); err != nil {
			return err
		}
		if len(v.Refs) > 0 {
			return agentapi.Errorf(agentapi.Busy, "volume %q is exported to %d client(s), %s among them: unexport it first", name, len(v.Refs), v.Refs[0].Client)
		}
		return t.delete(ctx, t.dir, name, v.UUID, func() { t.volumes.remove(name) })
	}, t.volumeLock(name))
}

// delete renames the directory to a temporary name, destroys its contents, and commits both
// together. Maintenance and the next start remove what a crash or a failure leaves. delete calls
// forget last: a power cut before the commit restores the volume, so no reader may see it disappear
// earlier.
//
// delete also succeeds if the data is in use on the storage host. The name becomes free, and
// maintenance removes the data when the use has ended.
//
// A filesystem that is too full for a rename still sets times, destroys subvolumes and unlinks
// files (measured: btrfs lets these operations use its global reserve). In that case the mark
// Deleting replaces the temporary name.
func (t *Tenant) delete(ctx context.Context, parent *os.File, name string, id uuid.UUID, forget func()) error {
	if err := t.store.creates.hold(func() error { return t.remove(parent, name, id) }); err != nil {
		return err
	}
	t.store.maintenance.deleted()
	if err := t.store.disk.Commit(ctx); err != nil {
		return err
	}
	forget()
	return nil
}

// remove does all of a deletion except the commit.
func (t *Tenant) remove(parent *os.File, name string, id uuid.UUID) error {
	if err := t.checkSubvolume(parent, name, id); err != nil {
		return err
	}
	return t.removeNamed(parent, name)
}

func (t *Tenant) removeNamed(parent *os.File, name string) error {
	d := t.store.disk
	trash := t.store.maintenance.newTemporaryName(inspect.TrashPrefix)
	defer t.store.maintenance.done(trash)
	err := d.Rename(parent, name, trash)
	if ondisk.IsErrno(err, unix.ENOSPC) {
		trash, err = name, t.markDeleting(parent, name)
	}
	if err != nil {
		return err
	}
	err = d.RemoveDirectory(parent, trash)
	switch path := parent.Name() + "/" + trash; {
	case err == nil:
		return nil
	case trash == name: // the name stays taken
		return err
	case ondisk.IsInUse(err):
		t.store.log.Warn("deleted what is in use on the storage host: its data is removed later", "path", path, "error", err)
		t.store.maintenance.removeLater(path)
		return nil
	case ondisk.IsForeign(err):
		t.store.log.Warn("a deleted directory holds what the agent did not put there, and stays", "path", path, "error", err)
		return nil
	default:
		return err
	}
}

// abandon removes what a failed creation left under its name. As in a deletion, the name goes
// first: a kill must not leave a directory without data under it. The mark shows that the data in a
// temporary directory belongs to the agent.
func (t *Tenant) abandon(parent *os.File, name string, cause error) error {
	err := t.markDeleting(parent, name)
	if err == nil {
		err = t.removeNamed(parent, name)
	}
	return ondisk.LeftBehind(cause, err)
}

func (t *Tenant) markDeleting(parent *os.File, name string) error {
	dir, err := beneath.OpenDir(parent, name)
	if err != nil {
		return err
	}
	defer dir.Close()
	return t.store.disk.Mark(dir, inspect.Deleting)
}

// checkSubvolume verifies that the subvolume to destroy is the one in the catalogue. Missing data
// is no error.
func (t *Tenant) checkSubvolume(parent *os.File, name string, want uuid.UUID) error {
	dir, err := beneath.OpenDir(parent, name)
	if err != nil {
		return err
	}
	defer dir.Close()
	data, info, err := t.store.disk.OpenSubvolume(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if errors.Is(err, btrfs.ErrNotSubvolume) {
		return agentapi.Errorf(agentapi.MetadataError, "%s/%s is not a subvolume: somebody replaced it", name, ondisk.DataDir)
	}
	if err != nil {
		return err
	}
	data.Close()
	if info.UUID != want {
		return ondisk.ReplacedOnDisk(name, want, info.UUID)
	}
	return nil
}
