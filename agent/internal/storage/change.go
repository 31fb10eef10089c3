package storage

import (
	"context"
	"errors"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// A change of a volume affects metadata, the subvolume and the NFS server. It has these steps:
//
//  1. The agent notes the change in the metadata, with the old and the new values of the subvolume.
//     The other fields keep the old values.
//  2. The agent sets the new values on the subvolume.
//  3. The agent updates the NFS server.
//  4. The agent writes the new values to the metadata, without the note, and commits.
//
// Invariant: until step 4 has ended, the old values are valid. If the change ends earlier, it is
// undone by the operation itself, by a reload of the volume, or by the next start. All of them call
// ondisk.Opened.Resolve. What cannot be undone yet stays noted in the metadata, even if the agent
// rewrites the metadata meanwhile.

// maxPending limits the notes of changes that could not be undone.
const maxPending = 16

// settings returns the settings of v that the update changes.
func (u VolumeUpdate) settings(v Volume) ondisk.Settings {
	return ondisk.Changed{
		Limit: u.SizeBytes != nil || u.SizeLimit != nil, Storage: u.Nocow != nil || u.Compression != nil,
		UID: u.Uid != nil, GID: u.Gid != nil, Mode: u.Mode != nil,
	}.Of(v.Properties)
}

// update changes a volume from old to v, or leaves it unchanged.
func (t *Tenant) update(ctx context.Context, old, v Volume, u VolumeUpdate) error {
	o, err := t.volumeDir.Open(v.Name, v.UUID)
	if err != nil {
		return err
	}
	defer o.Close()
	to := u.settings(v)
	from, err := o.Current(old, to)
	if err != nil {
		return err
	}

	noted := old
	noted.Pending = old.Pending.With(ondisk.Change{From: &from, To: to})
	if len(noted.Pending) > maxPending {
		return agentapi.Errorf(agentapi.Unavailable, "%d changes of volume %q have failed and cannot be undone yet: see the agent's log", len(old.Pending), old.Name)
	}
	v.Pending = old.Pending.Without(to)
	written, err := t.makeChange(ctx, o, noted, v, to)
	if err == nil {
		t.keep(v)
		return nil
	}
	if written || !to.IsEmpty() {
		err = errors.Join(err, t.undoChange(o, noted, written))
	}
	if v.RootSquash != old.RootSquash {
		err = errors.Join(err, t.tellClients(ctx, old))
	}
	return err
}

// makeChange runs steps 1 to 4. written reports whether the metadata may have the new values. A
// change of metadata alone needs no note.
func (t *Tenant) makeChange(ctx context.Context, o *ondisk.Opened, noted, v Volume, to ondisk.Settings) (written bool, err error) {
	if !to.IsEmpty() {
		if err := o.WriteMetadata(noted); err != nil {
			return false, err
		}
		if err := o.Apply(v.ID, to); err != nil {
			return false, err
		}
	}
	if v.RootSquash != noted.RootSquash {
		if err := t.tellClients(ctx, v); err != nil {
			return false, err
		}
	}
	if err := o.WriteMetadata(v); err != nil {
		return false, err
	}
	return true, t.store.pool.Commit(ctx)
}

// undoChange restores subvolume and metadata after a failed change. What it cannot undo stays
// noted.
func (t *Tenant) undoChange(o *ondisk.Opened, noted Volume, written bool) error {
	var err error
	if written {
		err = o.WriteMetadata(noted)
	}
	if err == nil {
		err = o.Resolve(&noted)
	}
	t.volumes.put(noted)
	return err
}

// tellClients updates the exports of the volume on the NFS server.
func (t *Tenant) tellClients(ctx context.Context, v Volume) error {
	if len(v.Refs) == 0 {
		return nil
	}
	return t.store.exporter.Export(ctx, t.store.exportsOf(v, v.Clients()...))
}
