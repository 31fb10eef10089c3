package storage

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
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
// resolve. What cannot be undone yet stays noted in the metadata, even if the agent rewrites the
// metadata meanwhile.

// maxPending limits the notes of changes that could not be undone.
const maxPending = 16

// settings returns the settings of v that the update changes.
func (u VolumeUpdate) settings(v Volume) ondisk.Settings {
	return ondisk.Changed{
		Limit: u.SizeBytes != nil || u.SizeLimit != nil, Storage: u.NoCOW != nil || u.Compression != nil,
		UID: u.UID != nil, GID: u.GID != nil, Mode: u.Mode != nil,
	}.Of(v.Properties)
}

// update changes a volume from old to v, or leaves it unchanged.
func (t *Tenant) update(ctx context.Context, old, v Volume, u VolumeUpdate) error {
	d := t.store.disk
	dir, err := d.Open(t.name + "/" + v.Name)
	if err != nil {
		return err
	}
	defer dir.Close()
	data, info, err := d.OpenSubvolume(dir)
	if err != nil {
		return err
	}
	defer data.Close()
	if info.UUID != v.UUID {
		return ondisk.ReplacedOnDisk(v.Name, v.UUID, info.UUID)
	}
	to := u.settings(v)
	from, err := currentSettings(data, old, to)
	if err != nil {
		return err
	}

	noted := old
	noted.Pending = old.Pending.With(ondisk.Change{From: &from, To: to})
	if len(noted.Pending) > maxPending {
		return agentapi.Errorf(agentapi.Unavailable, "%d changes of volume %q have failed and cannot be undone yet: see the agent's log", len(old.Pending), old.Name)
	}
	v.Pending = old.Pending.Without(to)
	written, err := t.makeChange(ctx, dir, data, noted, v, to)
	if err == nil {
		t.keep(v)
		return nil
	}
	if written || !to.IsEmpty() {
		err = errors.Join(err, t.undoChange(dir, data, noted, written))
	}
	if v.RootSquash != old.RootSquash {
		err = errors.Join(err, t.tellClients(ctx, old))
	}
	return err
}

// makeChange runs steps 1 to 4. written reports whether the metadata may have the new values. A
// change of metadata alone needs no note.
func (t *Tenant) makeChange(ctx context.Context, dir, data *os.File, noted, v Volume, to ondisk.Settings) (written bool, err error) {
	d := t.store.disk
	if !to.IsEmpty() {
		if err := d.WriteMetadata(dir, noted.Metadata()); err != nil {
			return false, err
		}
		if err := t.applyProperties(data, v.ID, to); err != nil {
			return false, err
		}
	}
	if v.RootSquash != noted.RootSquash {
		if err := t.tellClients(ctx, v); err != nil {
			return false, err
		}
	}
	if err := d.WriteMetadata(dir, v.Metadata()); err != nil {
		return false, err
	}
	return true, d.Commit(ctx)
}

// undoChange restores subvolume and metadata after a failed change. What it cannot undo stays
// noted.
func (t *Tenant) undoChange(dir, data *os.File, noted Volume, written bool) error {
	var err error
	if written {
		err = t.store.disk.WriteMetadata(dir, noted.Metadata())
	}
	if err == nil {
		err = t.resolve(dir, data, &noted)
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

// resolveChange resolves interrupted changes of the volume in dir.
func (t *Tenant) resolveChange(dir *os.File, v *Volume) error {
	if len(v.Pending) == 0 {
		return nil
	}
	detail := strings.Join(v.Pending.Fields(), ", ")
	return t.store.repair(Finding{Kind: Unfinished, Path: dir.Name(), Detail: detail}, func() error {
		data, _, err := t.store.disk.OpenSubvolume(dir)
		if err != nil {
			return err
		}
		defer data.Close()
		return t.resolve(dir, data, v)
	})
}

// resolve undoes the changes that v notes, the last one first. It finishes those without previous
// values. Then it removes the notes from the metadata.
func (t *Tenant) resolve(dir, data *os.File, v *Volume) error {
	for _, c := range slices.Backward(v.Pending) {
		back := c.To
		if c.From != nil {
			now, err := currentSettings(data, *v, c.To)
			if err != nil {
				return err
			}
			back = c.From.Where(now, c.To)
		}
		if err := t.applyProperties(data, v.ID, back); err != nil {
			return err
		}
	}
	resolved := *v
	resolved.Pending = nil
	if err := t.store.disk.WriteMetadata(dir, resolved.Metadata()); err != nil {
		return err
	}
	*v = resolved
	return nil
}

// currentSettings reads the current values of the same settings from the subvolume. For a limit it
// returns the one that v intends.
func currentSettings(data *os.File, v Volume, others ondisk.Settings) (ondisk.Settings, error) {
	var s ondisk.Settings
	var stat unix.Stat_t
	if err := unix.Fstat(int(data.Fd()), &stat); err != nil {
		return s, &os.PathError{Op: "stat", Path: data.Name(), Err: err}
	}
	if others.QuotaBytes != nil {
		s.QuotaBytes = &v.QuotaBytes
	}
	if others.NoCOW != nil {
		nocow, err := btrfs.NoCOW(data)
		if err != nil {
			return s, err
		}
		compression, err := btrfs.Compression(data)
		if err != nil {
			return s, err
		}
		s.NoCOW, s.Compression = &nocow, &compression
	}
	if uid := int64(stat.Uid); others.UID != nil {
		s.UID = &uid
	}
	if gid := int64(stat.Gid); others.GID != nil {
		s.GID = &gid
	}
	if mode := stat.Mode & 0o7777; others.Mode != nil {
		s.Mode = &mode
	}
	return s, nil
}

// applyProperties applies the settings to the subvolume. It leaves other settings to the clients: a
// pod may have changed owner and mode of its volume's root, and growing the volume must not reset
// them.
func (t *Tenant) applyProperties(data *os.File, id uint64, s ondisk.Settings) error {
	d := t.store.disk
	if s.QuotaBytes != nil {
		if err := t.store.pool.SetLimit(id, *s.QuotaBytes); err != nil {
			return err
		}
	}
	if s.NoCOW != nil {
		if err := d.SetStorage(data, Properties{NoCOW: *s.NoCOW, Compression: *s.Compression}); err != nil {
			return err
		}
	}
	if s.UID != nil || s.GID != nil {
		const keep = -1 // chown(2)
		// chown(2) clears setuid and setgid of files only, not of directories (chown_common in
		// fs/open.c).
		if err := d.Chown(data, valueOr(s.UID, keep), valueOr(s.GID, keep)); err != nil {
			return err
		}
	}
	if s.Mode != nil {
		return d.Chmod(data, *s.Mode)
	}
	return nil
}
