package storage

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/labels"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// UpdateVolume changes what is set in the update. The size never shrinks; NoCOW and compression act on new files and new
// data. Labels are replaced as a whole, but for created-by, which is kept.
func (t *Tenant) UpdateVolume(ctx context.Context, name string, update VolumeUpdate) (v Volume, err error) {
	if err := validateName("name", name); err != nil {
		return Volume{}, err
	}
	if err := labels.Check(update.Labels); err != nil {
		return Volume{}, err
	}
	err = t.store.change(ctx, func(ctx context.Context) error {
		old, err := t.usableVolume(name)
		if err != nil {
			return err
		}
		if v, err = t.updated(ctx, old, update); err != nil {
			return err
		}
		return t.update(ctx, old, v, update)
	}, t.volumeClaim(name))
	return v, err
}

// usableVolume is NotFound where there is none and MetadataError where it is quarantined.
func (t *Tenant) usableVolume(name string) (Volume, error) {
	v, err := t.GetVolume(context.Background(), name)
	return v, usable(err, v.Quarantine, name)
}

func (t *Tenant) updated(ctx context.Context, v Volume, u VolumeUpdate) (Volume, error) {
	limited := v.QuotaBytes > 0
	if u.SizeBytes != nil {
		if err := validateSize("size_bytes", *u.SizeBytes); err != nil {
			return v, err
		}
		if *u.SizeBytes < v.SizeBytes {
			return v, invalid("size_bytes is %d, the volume has %d: a volume cannot shrink", *u.SizeBytes, v.SizeBytes)
		}
		if *u.SizeBytes > v.SizeBytes {
			if err := t.store.pool.checkSize(*u.SizeBytes); err != nil {
				return v, err
			}
			v.SizeBytes = *u.SizeBytes
			if limited {
				v.QuotaBytes = max(v.SizeBytes, v.QuotaBytes)
			}
		}
	}
	if u.SizeLimit != nil && *u.SizeLimit != limited {
		if err := t.switchLimit(ctx, &v, *u.SizeLimit); err != nil {
			return v, err
		}
	}
	v.NoCOW = valueOr(u.NoCOW, v.NoCOW)
	v.Compression = valueOr(u.Compression, v.Compression)
	v.RootSquash = valueOr(u.RootSquash, v.RootSquash)
	v.UID, v.GID = valueOr(u.UID, v.UID), valueOr(u.GID, v.GID)
	v.Mode = valueOr(u.Mode, v.Mode)
	if u.Labels != nil {
		v.Labels = keepCreator(v.Labels, u.Labels)
	}
	if u.MountOptions != nil {
		if err := agentapi.CheckMountOptions(u.MountOptions); err != nil {
			return v, invalid("mount_options: %w", err)
		}
		v.MountOptions = slices.Clone(u.MountOptions)
	}
	v.UpdatedAt = now()
	if err := labels.Check(v.Labels.Map()); err != nil { // the creator's may be one too many
		return v, err
	}
	return v, t.store.validateProperties(v.Properties)
}

// switchLimit lifts the limit or sets it anew. A volume that has more in it than the limit would allow keeps none: its users could
// not even append to a log any more, and who asked for the limit would learn it from them.
func (t *Tenant) switchLimit(ctx context.Context, v *Volume, on bool) error {
	v.QuotaBytes = 0
	if !on {
		return nil
	}
	v.QuotaBytes = v.SizeBytes
	used, _, err := t.store.usedNow(ctx, v.ID)
	if err == nil && used.UsedBytes > v.SizeBytes {
		err = invalid("size_limit: the volume has %d bytes in it and a size of %d: grow it first", used.UsedBytes, v.SizeBytes)
	}
	return err
}

func keepCreator(old labels.Set, replacement map[string]string) labels.Set {
	creator, found := old.Get(agentapi.CreatedByLabel)
	if !found {
		return labels.Of(replacement)
	}
	replacement = maps.Clone(replacement)
	replacement[agentapi.CreatedByLabel] = creator
	return labels.Of(replacement)
}

// changes are the properties in which a subvolume is to follow its metadata.
type changes struct {
	Limit   bool `json:"limit,omitempty"`
	Storage bool `json:"storage,omitempty"` // NoCOW and compression
	UID     bool `json:"uid,omitempty"`
	GID     bool `json:"gid,omitempty"`
	Mode    bool `json:"mode,omitempty"`
}

// String names them.
func (c changes) String() string {
	var out []string
	for _, field := range []struct {
		name string
		is   bool
	}{{"limit", c.Limit}, {"NoCOW and compression", c.Storage}, {"owner", c.UID}, {"group", c.GID}, {"mode", c.Mode}} {
		if field.is {
			out = append(out, field.name)
		}
	}
	return strings.Join(out, ", ")
}

func (u VolumeUpdate) changes() changes {
	return changes{
		Limit: u.SizeBytes != nil || u.SizeLimit != nil, Storage: u.NoCOW != nil || u.Compression != nil,
		UID: u.UID != nil, GID: u.GID != nil, Mode: u.Mode != nil,
	}
}

// update writes the intent first, then makes the subvolume follow: should the agent end between the two, the next start
// finishes. If anything else fails, both are put back.
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
	c := u.changes()
	err = t.apply(dir, data, v, c)
	if err == nil {
		err = d.commit(ctx)
	}
	if err == nil && v.RootSquash != old.RootSquash {
		err = t.tellClients(ctx, v)
	}
	if err != nil {
		errs := []error{err, t.apply(dir, data, old, c)}
		if v.RootSquash != old.RootSquash {
			errs = append(errs, t.tellClients(ctx, old))
		}
		return errors.Join(errs...)
	}
	t.volumes.put(v)
	return nil
}

// tellClients tells the server what holds for the volume's clients now.
func (t *Tenant) tellClients(ctx context.Context, v Volume) error {
	if len(v.Refs) == 0 {
		return nil
	}
	return t.store.exporter.Export(ctx, t.store.exportsOf(v, v.clients()...))
}

// apply never lets the subvolume follow what is not written.
func (t *Tenant) apply(dir, data *os.File, v Volume, c changes) error {
	m := v.metadata()
	m.Unfinished = c
	if err := t.store.disk.writeMetadata(dir, m); err != nil || c == (changes{}) {
		return err
	}
	if err := t.follow(data, v, c); err != nil {
		return err
	}
	return t.store.disk.writeMetadata(dir, v.metadata())
}

// finish makes the subvolume follow where an update was cut off.
func (t *Tenant) finish(dir *os.File, v Volume, c changes) error {
	data, _, err := t.store.disk.openSubvolume(dir)
	if err != nil {
		return err
	}
	defer data.Close()
	if err := t.follow(data, v, c); err != nil {
		return err
	}
	return t.store.disk.writeMetadata(dir, v.metadata())
}

// follow makes the subvolume what v says, in what has changed. The rest is the clients': a pod may have changed owner
// and mode of its volume's root, and growing the volume must not change them back.
func (t *Tenant) follow(data *os.File, v Volume, c changes) error {
	d := t.store.disk
	if c.Limit {
		if err := t.store.limit(v); err != nil {
			return err
		}
	}
	if c.Storage {
		if err := d.setStorage(data, v.Properties); err != nil {
			return err
		}
	}
	if c.UID || c.GID {
		// chown(2) clears setuid and setgid of files only, not of directories (chown_common in fs/open.c).
		if err := d.chown(data, given(c.UID, v.UID), given(c.GID, v.GID)); err != nil {
			return err
		}
	}
	if c.Mode {
		return d.chmod(data, v.Mode)
	}
	return nil
}

// given is the value where it is to change, else what tells chown(2) to leave it alone.
func given(change bool, value int64) int64 {
	if !change {
		return -1
	}
	return value
}
