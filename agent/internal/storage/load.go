package storage

import (
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/google/uuid"
)

// loadVolume updates the catalogue with the state on disk under name.
func (t *Tenant) loadVolume(name string) {
	v, found, err := t.volumeDir.LoadVolume(name)
	if !found {
		t.volumes.remove(name)
		return
	}
	before, known := t.volumes.get(name)
	if known && v.Quarantine != "" && v.VolumeID == uuid.Nil { // see takeOverSquash
		v.RootSquash = before.RootSquash
	}
	t.volumes.put(v)
	t.loaded(t.volumeLock(name), v.Path, v.Quarantine, before.Quarantine, err)
}

func (t *Tenant) loadSnapshot(name string) {
	s, found, err := t.snapshotDir.LoadSnapshot(name)
	if !found {
		t.snapshots.remove(name)
		return
	}
	before, _ := t.snapshots.get(name)
	t.snapshots.put(s)
	t.loaded(t.snapshotLock(name), s.Path, s.Quarantine, before.Quarantine, err)
}

// loaded marks a name for another load, because the next read or repair may succeed. It reports a
// new reason for a quarantine.
func (t *Tenant) loaded(lock nameLock, path, quarantine, before string, err error) {
	if err != nil || quarantine != "" {
		t.store.reloads.mark(lock)
	}
	if quarantine != "" && quarantine != before {
		t.store.report(Finding{Kind: ondisk.Quarantined, Path: path, Detail: quarantine})
	}
}

// reloadVolume updates the catalogue and the limit of the volume with the state on disk.
func (t *Tenant) reloadVolume(name string) error {
	v, _ := t.volumes.get(name)
	if len(v.Pending) > 0 && v.Quarantine == "" {
		if err := t.volumeDir.NoteAgain(v); err != nil {
			return err
		}
	}
	t.loadVolume(name)
	v, found := t.volumes.get(name)
	if !found || v.Quarantine != "" {
		return nil
	}
	return t.store.pool.RestoreLimit(v)
}
