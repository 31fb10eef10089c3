package ondisk

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/openat2"
)

// The agent loads each name at start, and again after a change of the name has failed. Both finish
// or undo interrupted changes, as classify decides.

// LoadVolume reads the volume of that name. found is false if there is none. The error is that of a
// repair that has to be tried again.
//
// A quarantined volume has the references that can be read, because their clients can be
// unexported. If its metadata cannot be read, it has no VolumeID, and squashes root.
func (d *Directory) LoadVolume(name string) (v Volume, found bool, err error) {
	f := d.inspectAndRemove(name)
	switch f.state {
	case whole:
		v = f.metadata.AsVolume()
		v.Path, v.ID, v.UUID, v.Refs = d.Path(name), f.info.ID, f.info.UUID, f.refs
		err = d.repairWhole(name, f, func(dir *os.File) error {
			return errors.Join(d.disk.repairRefs(dir, v.Refs), d.disk.resolveChange(dir, &v))
		})
		return v, true, err
	case quarantined:
		v = Volume{
			Name: name, VolumeID: f.metadata.ownVolumeID(), Path: d.Path(name), Quarantine: f.reason,
			ID: f.info.ID, UUID: f.info.UUID, Refs: f.refs, RefsUnknown: f.references == badReferences,
		}
		v.RootSquash = f.metadata.RootSquash || f.metadata.Name == ""
		if !v.HasData() {
			v.UUID = f.metadata.UUID
		}
		return v, true, nil
	default:
		return Volume{}, false, nil
	}
}

// LoadSnapshot is LoadVolume for snapshots.
func (d *Directory) LoadSnapshot(name string) (s Snapshot, found bool, err error) {
	f := d.inspectAndRemove(name)
	switch f.state {
	case whole:
		s = f.metadata.AsSnapshot()
		s.Path, s.ID, s.UUID, s.ParentUUID = d.Path(name), f.info.ID, f.info.UUID, f.info.ParentUUID
		return s, true, d.repairWhole(name, f, func(*os.File) error { return nil })
	case quarantined:
		s = Snapshot{Name: name, Path: d.Path(name), Quarantine: f.reason, Volume: f.metadata.Volume, VolumeID: f.metadata.VolumeID}
		return s, true, nil
	default:
		return Snapshot{}, false, nil
	}
}

// inspectAndRemove inspects a directory, and removes it if it is incomplete or partly deleted. If
// the removal fails, the name stays taken, and the directory is quarantined for now.
func (d *Directory) inspectAndRemove(name string) inspected {
	f := d.inspect(name)
	if f.state == interruptedCreation || f.state == interruptedDeletion {
		if err := d.removeLeftover(name, f); err != nil {
			f.state, f.reason = quarantined, "what an interrupted change left cannot be removed: "+err.Error()
		}
	}
	return f
}

// repairWhole repairs the remains of an interruption in the directory of a complete volume or
// snapshot. more repairs what only one of the two has.
func (d *Directory) repairWhole(name string, f inspected, more func(dir *os.File) error) error {
	dir, err := openat2.OpenDir(d.dir, name)
	if err != nil {
		return err
	}
	defer dir.Close()
	return errors.Join(
		d.disk.adopt(dir, f.metadata, f.info),
		d.disk.clearOldMark(dir, f.mark),
		d.disk.removeLeftoverFile(dir, MetadataFile+TemporarySuffix),
		more(dir),
	)
}

// clearOldMark clears the mark of a creation that was interrupted after its data was complete.
func (d *Disk) clearOldMark(dir *os.File, mark Mark) error {
	if mark == NoMark || d.ReadOnly {
		return nil
	}
	return d.clearMark(dir)
}

// adopt accepts data in another subvolume than before: an administrator has restored it.
func (d *Disk) adopt(dir *os.File, m Metadata, info btrfs.SubvolumeInfo) error {
	if m.UUID == info.UUID || m.UUID == uuid.Nil {
		return nil
	}
	detail := fmt.Sprintf("the subvolume was %s and is %s", m.UUID, info.UUID)
	return d.Repair(Finding{Kind: ReplacedData, Path: dir.Name(), Detail: detail}, func() error {
		m.UUID = info.UUID
		return d.writeMetadata(dir, m)
	})
}

// removeLeftoverFile removes a file of an interrupted write.
func (d *Disk) removeLeftoverFile(dir *os.File, name string) error {
	var stat unix.Stat_t
	if unix.Fstatat(int(dir.Fd()), name, &stat, unix.AT_SYMLINK_NOFOLLOW) == unix.ENOENT {
		return nil
	}
	return d.Repair(Finding{Kind: Temporary, Path: dir.Name() + "/" + name}, func() error {
		return d.unlink(dir, name)
	})
}

// repairRefs removes the remains of interrupted writes: temporary files, and the ended file of a
// reference that is live again. It marks the files of ended references.
func (d *Disk) repairRefs(dir *os.File, refs []Ref) error {
	clients, err := openat2.OpenDir(dir, ClientsDir)
	if err != nil {
		return openat2.IgnoreNotExist(err)
	}
	defer clients.Close()
	names, err := clients.Readdirnames(-1)
	for _, name := range names {
		if strings.HasSuffix(name, TemporarySuffix) || isReplaced(name, names) {
			err = errors.Join(err, d.removeLeftoverFile(clients, name))
		}
	}
	for _, ref := range refs {
		for _, suffix := range []string{refSuffix1, refSuffix} {
			if name := ref.stem() + suffix; ref.Ended && slices.Contains(names, name) {
				err = errors.Join(err, d.Repair(Finding{Kind: Temporary, Path: clients.Name() + "/" + name}, func() error {
					return d.rename(clients, name, ref.stem()+endedSuffix)
				}))
			}
		}
	}
	return err
}

// resolveChange resolves interrupted changes of the volume in dir.
func (d *Disk) resolveChange(dir *os.File, v *Volume) error {
	if len(v.Pending) == 0 {
		return nil
	}
	detail := strings.Join(v.Pending.fields(), ", ")
	return d.Repair(Finding{Kind: Unfinished, Path: dir.Name(), Detail: detail}, func() error {
		data, _, err := d.openSubvolume(dir)
		if err != nil {
			return err
		}
		defer data.Close()
		o := &Opened{disk: d, dir: dir, data: data}
		return o.Resolve(v)
	})
}

// NoteAgain writes the metadata of a volume with changes that could not be undone. The disk may
// have their new values without a note. That happens if a commit and the following write both
// failed.
func (d *Directory) NoteAgain(v Volume) error {
	dir, err := d.open(v.Name)
	if err != nil {
		return openat2.IgnoreNotExist(err)
	}
	defer dir.Close()
	_, unreadable := presentMetadata(dir, v.Name)
	if unreadable != nil { // the following load quarantines the volume, and reports why
		return nil
	}
	return d.disk.writeMetadata(dir, v.Metadata())
}

// RestoreLimit sets the limit of a volume after it has been loaded again.
func (d *Disk) RestoreLimit(v Volume) error {
	switch err := d.SetLimit(v.ID, v.QuotaBytes); {
	case errors.Is(err, btrfs.ErrQuotaDisabled):
		return nil // Conditions report it; the next start sets the limits
	case errors.Is(err, btrfs.ErrNoQgroup):
		// Before 6.8, kernels allow to remove the qgroup of an existing subvolume. The next start of
		// the quotas creates a new one.
		d.Log.Error("the kernel does not count a volume, and its limit is not enforced: turn quotas off, and restart the agent", "path", v.Path)
		return nil
	default:
		return err
	}
}
