package storage

import (
	"context"
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// A change of a volume acts on metadata, on the subvolume and on the NFS server. It is made in
// this order:
//
//  1. The metadata notes the change, with the subvolume's values before and after it. Its other
//     fields keep the old values.
//  2. The subvolume gets the new values.
//  3. The NFS server is told.
//  4. The metadata gets the new values, without the note, and is committed.
//
// Until 4 the old values hold. Whatever ends the change before 4 has ended undoes it: the
// operation itself, a reload of the volume or the next start, all with resolve. What cannot be
// undone yet stays noted, however often the metadata is written meanwhile.

// maxPending bounds the notes of changes that could not be undone.
const maxPending = 16

// change is a note of step 1.
type change struct {
	// From is what the subvolume had before. It is absent where the metadata has the new values
	// already: the change is then finished, not undone. So it is in a clone, which has no values of
	// its own before, and in a change of 57e475d.
	From *settings `json:"from,omitempty"`
	To   settings  `json:"to"`
}

// settings are those of a subvolume that a change is about.
type settings struct {
	QuotaBytes  *int64  `json:"quota_bytes,omitempty"`
	NoCOW       *bool   `json:"nocow,omitempty"` // together with compression
	Compression *string `json:"compression,omitempty"`
	UID         *int64  `json:"uid,omitempty"`
	GID         *int64  `json:"gid,omitempty"`
	Mode        *uint32 `json:"mode,omitempty"`
}

// fields are the names of what is set, as people call it.
func (s settings) fields() []string {
	var out []string
	for _, field := range []struct {
		name string
		set  bool
	}{
		{"limit", s.QuotaBytes != nil},
		{"NoCOW and compression", s.NoCOW != nil},
		{"owner", s.UID != nil},
		{"group", s.GID != nil},
		{"mode", s.Mode != nil},
	} {
		if field.set {
			out = append(out, field.name)
		}
	}
	return out
}

func (s settings) without(others settings) settings {
	if others.QuotaBytes != nil {
		s.QuotaBytes = nil
	}
	if others.NoCOW != nil {
		s.NoCOW, s.Compression = nil, nil
	}
	if others.UID != nil {
		s.UID = nil
	}
	if others.GID != nil {
		s.GID = nil
	}
	if others.Mode != nil {
		s.Mode = nil
	}
	return s
}

func (s settings) isEmpty() bool { return s == settings{} }

// settings are those of v that the update is about.
func (u VolumeUpdate) settings(v Volume) settings {
	return changed{
		Limit: u.SizeBytes != nil || u.SizeLimit != nil, Storage: u.NoCOW != nil || u.Compression != nil,
		UID: u.UID != nil, GID: u.GID != nil, Mode: u.Mode != nil,
	}.of(v.Properties)
}

// changed says which settings a change is about. 57e475d noted no more than that of a change,
// and had the new values in the other fields of the metadata.
type changed struct {
	Limit   bool `json:"limit,omitempty"`
	Storage bool `json:"storage,omitempty"` // NoCOW and compression
	UID     bool `json:"uid,omitempty"`
	GID     bool `json:"gid,omitempty"`
	Mode    bool `json:"mode,omitempty"`
}

// of takes these settings from the properties.
func (c changed) of(p Properties) settings {
	var s settings
	if c.Limit {
		s.QuotaBytes = &p.QuotaBytes
	}
	if c.Storage {
		s.NoCOW, s.Compression = &p.NoCOW, &p.Compression
	}
	if c.UID {
		s.UID = &p.UID
	}
	if c.GID {
		s.GID = &p.GID
	}
	if c.Mode {
		s.Mode = &p.Mode
	}
	return s
}

// pendingChanges are the changes that a volume's metadata notes, in the order in which they began.
type pendingChanges []change

func (p pendingChanges) fields() []string {
	var out []string
	for _, c := range p {
		out = append(out, c.To.fields()...)
	}
	return out
}

// with notes a change. Where others are noted already, it leaves out one that is among them or sets
// nothing: a caller may try again and again. With no other, also a change that sets nothing is
// noted, so that a reload writes the old metadata where neither the new one could be committed nor
// the old one written back.
func (p pendingChanges) with(c change) pendingChanges {
	same := func(noted change) bool { return reflect.DeepEqual(noted, c) }
	if len(p) > 0 && (reflect.DeepEqual(*c.From, c.To) || slices.ContainsFunc(p, same)) {
		return p
	}
	return append(slices.Clip(p), c)
}

// without leaves out what is set in s: a later change has set it, and nothing is to be undone.
func (p pendingChanges) without(s settings) pendingChanges {
	var out pendingChanges
	for _, c := range p {
		c.To = c.To.without(s)
		if c.To.isEmpty() {
			continue
		}
		if c.From != nil {
			from := c.From.without(s)
			c.From = &from
		}
		out = append(out, c)
	}
	return out
}

// update changes a volume from old to v, or leaves it as it is.
func (t *Tenant) update(ctx context.Context, old, v Volume, u VolumeUpdate) error {
	d := t.store.disk
	dir, err := d.open(t.name + "/" + v.Name)
	if err != nil {
		return err
	}
	defer dir.Close()
	data, info, err := d.openSubvolume(dir)
	if err != nil {
		return err
	}
	defer data.Close()
	if info.UUID != v.UUID {
		return replacedOnDisk(v.Name, v.UUID, info.UUID)
	}
	to := u.settings(v)
	from, err := currentSettings(data, old, to)
	if err != nil {
		return err
	}

	noted := old
	noted.Pending = old.Pending.with(change{From: &from, To: to})
	if len(noted.Pending) > maxPending {
		return agentapi.Errorf(agentapi.Unavailable, "%d changes of volume %q have failed and cannot be undone yet: see the agent's log", len(old.Pending), old.Name)
	}
	v.Pending = old.Pending.without(to)
	written, err := t.makeChange(ctx, dir, data, noted, v, to)
	if err == nil {
		t.keep(v)
		return nil
	}
	if written || !to.isEmpty() {
		err = errors.Join(err, t.undoChange(dir, data, noted, written))
	}
	if v.RootSquash != old.RootSquash {
		err = errors.Join(err, t.tellClients(ctx, old))
	}
	return err
}

// makeChange takes the steps 1 to 4. written reports whether the metadata may have the new
// values. A change of metadata alone needs no note before.
func (t *Tenant) makeChange(ctx context.Context, dir, data *os.File, noted, v Volume, to settings) (written bool, err error) {
	d := t.store.disk
	if !to.isEmpty() {
		if err := d.writeMetadata(dir, noted.metadata()); err != nil {
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
	if err := d.writeMetadata(dir, v.metadata()); err != nil {
		return false, err
	}
	return true, d.Commit(ctx)
}

// undoChange makes subvolume and metadata what they were before a change that failed. What it
// cannot undo stays noted.
func (t *Tenant) undoChange(dir, data *os.File, noted Volume, written bool) error {
	var err error
	if written {
		err = t.store.disk.writeMetadata(dir, noted.metadata())
	}
	if err == nil {
		err = t.resolve(dir, data, &noted)
	}
	t.volumes.put(noted)
	return err
}

// tellClients tells the server what holds for the volume's clients now.
func (t *Tenant) tellClients(ctx context.Context, v Volume) error {
	if len(v.Refs) == 0 {
		return nil
	}
	return t.store.exporter.Export(ctx, t.store.exportsOf(v, v.clients()...))
}

// resolveChange ends what an interruption has left of changes of the volume in dir.
func (t *Tenant) resolveChange(dir *os.File, v *Volume) error {
	if len(v.Pending) == 0 {
		return nil
	}
	detail := strings.Join(v.Pending.fields(), ", ")
	return t.store.repair(Finding{Kind: Unfinished, Path: dir.Name(), Detail: detail}, func() error {
		data, _, err := t.store.disk.openSubvolume(dir)
		if err != nil {
			return err
		}
		defer data.Close()
		return t.resolve(dir, data, v)
	})
}

// resolve undoes the changes that v notes, the last one first, and finishes those without a value
// from before. Then it takes the notes off the metadata.
func (t *Tenant) resolve(dir, data *os.File, v *Volume) error {
	for _, c := range slices.Backward(v.Pending) {
		back := c.To
		if c.From != nil {
			now, err := currentSettings(data, *v, c.To)
			if err != nil {
				return err
			}
			back = c.From.where(now, c.To)
		}
		if err := t.applyProperties(data, v.ID, back); err != nil {
			return err
		}
	}
	resolved := *v
	resolved.Pending = nil
	if err := t.store.disk.writeMetadata(dir, resolved.metadata()); err != nil {
		return err
	}
	*v = resolved
	return nil
}

// where leaves out owner, group and mode that are not what the change has made them: a client
// has set them since.
func (s settings) where(now, to settings) settings {
	if s.UID != nil && *now.UID != *to.UID {
		s.UID = nil
	}
	if s.GID != nil && *now.GID != *to.GID {
		s.GID = nil
	}
	if s.Mode != nil && *now.Mode != *to.Mode {
		s.Mode = nil
	}
	return s
}

// currentSettings reads from the subvolume what others are about. A limit is the one that v
// intends.
func currentSettings(data *os.File, v Volume, others settings) (settings, error) {
	var s settings
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

// applyProperties gives the subvolume the settings. The others are the clients': a pod may have changed
// owner and mode of its volume's root, and growing the volume must not change them back.
func (t *Tenant) applyProperties(data *os.File, id uint64, s settings) error {
	d := t.store.disk
	if s.QuotaBytes != nil {
		if err := t.store.pool.SetLimit(id, *s.QuotaBytes); err != nil {
			return err
		}
	}
	if s.NoCOW != nil {
		if err := d.setStorage(data, Properties{NoCOW: *s.NoCOW, Compression: *s.Compression}); err != nil {
			return err
		}
	}
	if s.UID != nil || s.GID != nil {
		const keep = -1 // chown(2)
		// chown(2) clears setuid and setgid of files only, not of directories (chown_common in
		// fs/open.c).
		if err := d.chown(data, valueOr(s.UID, keep), valueOr(s.GID, keep)); err != nil {
			return err
		}
	}
	if s.Mode != nil {
		return d.chmod(data, *s.Mode)
	}
	return nil
}
