package storage

import (
	"context"
	"maps"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/labels"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/mountoptions"
)

// UpdateVolume changes the fields that are set in the update. The size never shrinks. NoCOW and
// compression take effect on new files and new data. Labels are replaced as a whole, except
// created-by, which is kept.
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
		if v, err = t.updated(old, update); err != nil {
			return err
		}
		end, err := t.admit(old, v)
		if err != nil {
			return err
		}
		defer end()
		return t.update(ctx, old, v, update)
	}, t.volumeLock(name))
	return v, err
}

// usableVolume returns NotFound for a missing volume and Quarantined for a quarantined one.
func (t *Tenant) usableVolume(name string) (Volume, error) {
	v, err := t.GetVolume(context.Background(), name)
	return v, usable(err, v.Quarantine, v.Path)
}

func (t *Tenant) updated(v Volume, u VolumeUpdate) (Volume, error) {
	limited := v.QuotaBytes > 0
	if u.SizeBytes != nil {
		if err := validateSize("size_bytes", *u.SizeBytes); err != nil {
			return v, err
		}
		if *u.SizeBytes < v.SizeBytes {
			return v, invalid("size_bytes is %d, the volume has %d: a volume cannot shrink", *u.SizeBytes, v.SizeBytes)
		}
		if *u.SizeBytes > v.SizeBytes {
			if err := t.store.pool.CheckSize(*u.SizeBytes); err != nil {
				return v, err
			}
			v.SizeBytes = *u.SizeBytes
			if limited {
				v.QuotaBytes = max(v.SizeBytes, v.QuotaBytes)
			}
		}
	}
	if u.SizeLimit != nil && *u.SizeLimit != limited {
		if err := t.switchLimit(&v, *u.SizeLimit); err != nil {
			return v, err
		}
	}
	if u.Labels != nil {
		v.Labels = keepCreator(v.Labels, u.Labels)
	}
	v.UpdatedAt = now()
	if err := labels.Check(v.Labels.Map()); err != nil { // the label of the creator may exceed the limit
		return v, err
	}
	err := t.store.choose(&v, v.Properties, u.RequestedProperties)
	return v, err
}

// choose gives the volume the properties that a request chooses, and the others of base.
func (s *Store) choose(v *Volume, base Properties, r agentapi.RequestedProperties) error {
	p, err := base.With(r)
	if err != nil {
		return err
	}
	v.Properties = p
	if r.MountOptions != nil {
		if err := validateMountOptions(*r.MountOptions); err != nil {
			return err
		}
		v.MountOptions = mountoptions.Split(*r.MountOptions...)
	}
	return s.validateProperties(p)
}

// switchLimit removes the limit or sets it again. A volume with more data than the limit would
// allow gets none. Otherwise its users could not even append to a log, and the caller would learn
// that only from them.
func (t *Tenant) switchLimit(v *Volume, on bool) error {
	v.QuotaBytes = 0
	if !on {
		return t.validateUnlimited()
	}
	v.QuotaBytes = v.SizeBytes
	used, err := t.store.pool.UsageNow(v.ID)
	if err == nil && used.UsedBytes > v.SizeBytes {
		err = invalid("size_limit: the volume has %d bytes in it and a size of %d: grow it first", used.UsedBytes, v.SizeBytes)
	}
	return err
}

func keepCreator(old labels.Set, replacement map[string]string) labels.Set {
	if creator, found := old.Get(agentapi.CreatedByLabel); found {
		replacement = maps.Clone(replacement)
		replacement[agentapi.CreatedByLabel] = creator
	}
	return labels.Of(replacement)
}

func creator(labels labels.Set) string {
	creator, _ := labels.Get(agentapi.CreatedByLabel)
	return creator
}
