package storage

import (
	"context"
	"errors"
	"maps"
	"os"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// UpdateVolume changes what is set in the update. The size never shrinks; NoCOW and compression act on new files and new
// data. Labels are replaced as a whole, but for created-by, which is kept.
func (t *Tenant) UpdateVolume(ctx context.Context, name string, update VolumeUpdate) (v Volume, err error) {
	if err := validateName("name", name); err != nil {
		return Volume{}, err
	}
	if err := validateLabels(update.Labels); err != nil {
		return Volume{}, err
	}
	err = t.store.change(ctx, func(ctx context.Context) error {
		old, err := t.usableVolume(name)
		if err != nil {
			return err
		}
		if v, err = t.updated(old, update); err != nil {
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

func (t *Tenant) updated(v Volume, u VolumeUpdate) (Volume, error) {
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
		}
		v.SizeBytes, v.QuotaBytes = *u.SizeBytes, max(*u.SizeBytes, v.QuotaBytes)
	}
	v.NoCOW = valueOr(u.NoCOW, v.NoCOW)
	v.Compression = valueOr(u.Compression, v.Compression)
	v.UID, v.GID = valueOr(u.UID, v.UID), valueOr(u.GID, v.GID)
	v.Mode = valueOr(u.Mode, v.Mode)
	if u.Labels != nil {
		v.Labels = keepCreator(v.Labels, u.Labels)
	}
	v.UpdatedAt = now()
	return v, t.store.validateProperties(v.Properties)
}

func keepCreator(old, replacement map[string]string) map[string]string {
	creator, found := old[agentapi.CreatedByLabel]
	if !found {
		return replacement
	}
	labels := maps.Clone(replacement)
	labels[agentapi.CreatedByLabel] = creator
	return labels
}

// update writes the intent first, then makes the subvolume follow: should the power fail between the two, the next start
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
	apply := func(v Volume) error {
		return errors.Join(d.writeMetadata(dir, v.metadata()), t.follow(data, v, u))
	}
	err = apply(v)
	if err == nil {
		err = d.commit(ctx)
	}
	if err != nil {
		return errors.Join(err, apply(old))
	}
	t.volumes.put(v)
	return nil
}

// follow makes the subvolume what v says, in what the update named. The rest is the clients': a pod may have changed owner
// and mode of its volume's root, and growing the volume must not change them back.
func (t *Tenant) follow(data *os.File, v Volume, u VolumeUpdate) error {
	d := t.store.disk
	if u.SizeBytes != nil {
		if err := t.store.limit(v); err != nil {
			return err
		}
	}
	if u.NoCOW != nil || u.Compression != nil {
		if err := d.setStorage(data, v.Properties); err != nil {
			return err
		}
	}
	if u.UID != nil || u.GID != nil {
		if err := d.chown(data, given(u.UID, v.UID), given(u.GID, v.GID)); err != nil {
			return err
		}
	}
	if u.Mode != nil || u.UID != nil || u.GID != nil { // chown clears setuid and setgid
		return d.chmod(data, v.Mode)
	}
	return nil
}

// given is the value where the update names one, else what tells chown(2) to leave it alone.
func given(asked *int64, value int64) int64 {
	if asked == nil {
		return -1
	}
	return value
}
