package storage

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/beneath"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/inspect"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
)

// The agent loads each name at start, and again after a change of the name has failed. Both finish
// or undo interrupted changes, as package inspect decides.

// loadVolume updates the catalogue with the state on disk under name.
func (t *Tenant) loadVolume(name string) {
	f := t.inspectAndRemove(t.dir, name)
	switch f.state {
	case inspect.Whole:
		t.volumes.put(t.wholeVolume(name, f))
	case inspect.Quarantined:
		t.quarantineVolume(name, f)
	default:
		t.volumes.remove(name)
	}
}

// inspectAndRemove inspects a directory, and removes it if it is incomplete or partly deleted. If
// the removal fails, the name stays taken, and the directory is quarantined for now.
func (t *Tenant) inspectAndRemove(parent *os.File, name string) inspected {
	f := t.inspect(parent, name)
	if f.state == inspect.InterruptedCreation || f.state == inspect.InterruptedDeletion {
		if err := t.removeLeftover(parent, name, f); err != nil {
			f.state, f.reason = inspect.Quarantined, "what an interrupted change left cannot be removed: "+err.Error()
		}
	}
	return f
}

func (t *Tenant) wholeVolume(name string, f inspected) Volume {
	v := f.volume
	v.Name, v.Path, v.ID, v.UUID, v.Refs = name, t.path(name), f.info.ID, f.info.UUID, f.refs
	t.repairWhole(t.dir, t.volumeLock(name), name, f, func(dir *os.File) error {
		return errors.Join(t.repairRefs(dir, v.Refs), t.resolveChange(dir, &v))
	})
	return v
}

// repairWhole repairs the remains of an interruption in the directory of a complete volume or
// snapshot. more repairs what only one of the two has. A failure is logged, and maintenance tries
// again.
func (t *Tenant) repairWhole(parent *os.File, lock nameLock, name string, f inspected, more func(dir *os.File) error) {
	dir, err := beneath.OpenDir(parent, name)
	if err != nil {
		t.store.reloads.mark(lock)
		return
	}
	defer dir.Close()
	err = errors.Join(
		t.adopt(dir, f.metadata, f.info),
		t.clearMark(dir, f.mark),
		t.removeLeftoverFile(dir, ondisk.MetadataFile+ondisk.TemporarySuffix),
		more(dir),
	)
	if err != nil {
		t.store.reloads.mark(lock)
	}
}

// clearMark clears the mark of a creation that was interrupted after its data was complete.
func (t *Tenant) clearMark(dir *os.File, mark inspect.Mark) error {
	if mark == inspect.NoMark || t.store.inspection.readOnly() {
		return nil
	}
	return t.store.disk.ClearMark(dir)
}

// quarantineVolume keeps the name and the clients of a volume. It reads as many references as it
// can, because their clients can be unexported.
func (t *Tenant) quarantineVolume(name string, f inspected) {
	before, known := t.volumes.get(name)
	v := Volume{
		Name: name, VolumeID: f.metadata.OwnVolumeID(), Path: t.path(name), Quarantine: f.reason,
		ID: f.info.ID, UUID: f.info.UUID, Refs: f.refs, RefsUnknown: f.references == inspect.BadReferences,
	}
	if !v.HasData() {
		v.UUID = f.metadata.UUID
	}
	switch {
	case f.metadata.Name != "":
		v.RootSquash = f.metadata.RootSquash
	case known:
		v.RootSquash = before.RootSquash
	default: // unknown: squash root, unless the server shows otherwise (see takeOverSquash)
		v.RootSquash = true
	}
	t.volumes.put(v)
	t.store.reloads.mark(t.volumeLock(name)) // the next read may succeed
	if v.Quarantine != before.Quarantine {
		t.store.report(Finding{Kind: Quarantined, Path: v.Path, Detail: v.Quarantine})
	}
}

// adopt accepts data in another subvolume than before: an administrator has restored it.
func (t *Tenant) adopt(dir *os.File, m ondisk.Metadata, info btrfs.SubvolumeInfo) error {
	if m.UUID == info.UUID || m.UUID == uuid.Nil {
		return nil
	}
	detail := fmt.Sprintf("the subvolume was %s and is %s", m.UUID, info.UUID)
	return t.store.repair(Finding{Kind: ReplacedData, Path: dir.Name(), Detail: detail}, func() error {
		m.UUID = info.UUID
		return t.store.disk.WriteMetadata(dir, m)
	})
}

// removeLeftoverFile removes a file of an interrupted write.
func (t *Tenant) removeLeftoverFile(dir *os.File, name string) error {
	var stat unix.Stat_t
	if unix.Fstatat(int(dir.Fd()), name, &stat, unix.AT_SYMLINK_NOFOLLOW) == unix.ENOENT {
		return nil
	}
	return t.store.repair(Finding{Kind: Temporary, Path: dir.Name() + "/" + name}, func() error {
		return t.store.disk.Unlink(dir, name)
	})
}

func (t *Tenant) loadSnapshot(name string) {
	f := t.inspectAndRemove(t.snapsDir, name)
	switch f.state {
	case inspect.Whole:
		t.snapshots.put(t.wholeSnapshot(name, f))
	case inspect.Quarantined:
		before, _ := t.snapshots.get(name)
		s := Snapshot{Name: name, Path: t.snapshotPath(name), Quarantine: f.reason}
		s.Volume, s.VolumeID = f.metadata.Volume, f.metadata.VolumeID
		t.snapshots.put(s)
		t.store.reloads.mark(t.snapshotLock(name))
		if s.Quarantine != before.Quarantine {
			t.store.report(Finding{Kind: Quarantined, Path: s.Path, Detail: s.Quarantine})
		}
	default:
		t.snapshots.remove(name)
	}
}

func (t *Tenant) wholeSnapshot(name string, f inspected) Snapshot {
	s := f.snapshot
	s.Name, s.Path = name, t.snapshotPath(name)
	s.ID, s.UUID, s.ParentUUID = f.info.ID, f.info.UUID, f.info.ParentUUID
	t.repairWhole(t.snapsDir, t.snapshotLock(name), name, f, func(*os.File) error { return nil })
	return s
}

// reloadVolume updates the catalogue and the limit of the volume with the state on disk.
func (t *Tenant) reloadVolume(name string) error {
	if err := t.noteAgain(name); err != nil {
		return err
	}
	t.loadVolume(name)
	v, found := t.volumes.get(name)
	if !found || v.Quarantine != "" {
		return nil
	}
	switch err := t.store.pool.SetLimit(v.ID, v.QuotaBytes); {
	case errors.Is(err, btrfs.ErrQuotaDisabled):
		return nil // Conditions report it; the next start sets the limits
	case errors.Is(err, btrfs.ErrNoQgroup):
		// Before 6.8, kernels allow to remove the qgroup of an existing subvolume. The next start of
		// the quotas creates a new one.
		t.store.log.Error("the kernel does not count a volume, and its limit is not enforced: turn quotas off, and restart the agent", "path", v.Path)
		return nil
	default:
		return err
	}
}

// noteAgain writes the metadata of a volume with changes that could not be undone. The disk may
// have their new values without a note. That happens if a commit and the following write both
// failed.
func (t *Tenant) noteAgain(name string) error {
	v, _ := t.volumes.get(name)
	if len(v.Pending) == 0 || v.Quarantine != "" {
		return nil
	}
	dir, err := t.store.disk.Open(t.name + "/" + name)
	if err != nil {
		return beneath.IgnoreNotExist(err)
	}
	defer dir.Close()
	_, unreadable := ondisk.PresentMetadata(dir, name)
	if unreadable != nil { // the following load quarantines the volume, and reports why
		return nil
	}
	return t.store.disk.WriteMetadata(dir, v.Metadata())
}

func (t *Tenant) reloadSnapshot(name string) error {
	t.loadSnapshot(name)
	return nil
}

// removeTemporary removes the remains of an interrupted change under a temporary name. It keeps
// what the agent did not create.
func (t *Tenant) removeTemporary(parent *os.File, name string) {
	if f := t.inspect(parent, name); f.state != inspect.NotOurs {
		_ = t.removeLeftover(parent, name, f) // logged, and tried again by maintenance
	}
}

// removeLeftover removes a directory that is incomplete or partly deleted. If that fails,
// maintenance tries again.
func (t *Tenant) removeLeftover(parent *os.File, name string, f inspected) error {
	kind := InterruptedCreation
	if f.state == inspect.InterruptedDeletion {
		kind = InterruptedDeletion
	}
	path := parent.Name() + "/" + name
	return t.store.repair(Finding{Kind: kind, Path: path}, func() error {
		t.store.maintenance.deleted()
		err := t.finishRemoval(parent, name, f)
		switch {
		case ondisk.IsInUse(err) && f.place == inspect.Trash:
			t.store.maintenance.removeLater(path)
		case err != nil:
			t.store.maintenance.failed.Store(true)
		}
		return err
	})
}

// finishRemoval removes all that the agent created of a leftover. A directory without data that has
// the name of a volume gets a temporary name first. If an administrator restores the data just
// before, the data moves with the directory, and comes back with it: package inspect keeps data
// next to the mark Creating.
func (t *Tenant) finishRemoval(parent *os.File, name string, f inspected) error {
	d := t.store.disk
	if f.state == inspect.InterruptedDeletion || f.place != inspect.Named {
		return d.RemoveDirectory(parent, name)
	}
	trash := t.store.maintenance.newTemporaryName(inspect.TrashPrefix)
	defer t.store.maintenance.done(trash)
	err := d.Rename(parent, name, trash)
	if ondisk.IsErrno(err, unix.ENOSPC) {
		return d.RemoveEmpty(parent, name, f.metadata)
	}
	if err != nil {
		return err
	}
	if again := t.inspect(parent, trash); again.data != inspect.NoData {
		return d.Rename(parent, trash, name)
	}
	return d.RemoveEmpty(parent, trash, f.metadata)
}

// repairRefs removes the remains of interrupted writes: temporary files, and the ended file of a
// reference that is live again. It marks the files of ended references.
func (t *Tenant) repairRefs(dir *os.File, refs []Ref) error {
	clients, err := beneath.OpenDir(dir, ondisk.ClientsDir)
	if err != nil {
		return beneath.IgnoreNotExist(err)
	}
	defer clients.Close()
	names, err := clients.Readdirnames(-1)
	for _, name := range names {
		if strings.HasSuffix(name, ondisk.TemporarySuffix) || ondisk.IsReplaced(name, names) {
			err = errors.Join(err, t.removeLeftoverFile(clients, name))
		}
	}
	for _, ref := range refs {
		for _, suffix := range []string{ondisk.RefSuffix1, ondisk.RefSuffix} {
			if ref.Ended && slices.Contains(names, ref.Stem()+suffix) {
				err = errors.Join(err, t.markFile(clients, ref, suffix))
			}
		}
	}
	return err
}

func (t *Tenant) markFile(clients *os.File, ref Ref, suffix string) error {
	return t.store.repair(Finding{Kind: Temporary, Path: clients.Name() + "/" + ref.Stem() + suffix}, func() error {
		return t.store.disk.Rename(clients, ref.Stem()+suffix, ref.Stem()+ondisk.EndedSuffix)
	})
}
