package storage

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/labels"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/mountoptions"
)

// Clone creates a volume with the current contents of a volume or of a snapshot. If the same
// request created the volume earlier, it returns that volume. The clone is usable at once, and
// shares its data with the source until one of them writes.
func (t *Tenant) Clone(ctx context.Context, spec CloneSpec) (v Volume, created bool, err error) {
	source, err := t.planClone(spec)
	if err != nil {
		return Volume{}, false, err
	}
	err = t.store.change(ctx, func(context.Context) error {
		if have, found := t.volumes.get(spec.Name); found {
			v = have
			return cmp.Or(sameClone(have, spec), t.sameSource(have, spec))
		}
		created = true
		v, err = t.clone(spec)
		return err
	}, t.volumeLock(spec.Name), source.as(copying))
	return v, created, err
}

func (t *Tenant) planClone(spec CloneSpec) (source nameLock, err error) {
	if (spec.Volume == "") == (spec.Snapshot == "") {
		return nameLock{}, invalid("exactly one source is needed: a volume or a snapshot")
	}
	source = t.volumeLock(spec.Volume)
	if spec.Snapshot != "" {
		err = validateName("snapshot", spec.Snapshot)
		source = t.snapshotLock(spec.Snapshot)
	} else {
		err = validateName("source", spec.Volume)
	}
	if err != nil {
		return nameLock{}, err
	}
	if err := validateName("name", spec.Name); err != nil {
		return nameLock{}, err
	}
	if spec.Name == spec.Volume {
		return nameLock{}, invalid("name %q is also the source", spec.Name)
	}
	if spec.SizeBytes != 0 {
		if err := validateSize("size_bytes", spec.SizeBytes); err != nil {
			return nameLock{}, err
		}
	}
	return source, labels.Check(spec.Labels)
}

// sameClone compares the fields that the request names. The clone took the others from the source.
func sameClone(have Volume, spec CloneSpec) error {
	want := have
	var err error
	if want.Properties, err = have.Properties.With(spec.RequestedProperties); err != nil {
		return err
	}
	want.SourceVolume, want.SourceSnapshot, want.Labels = spec.Volume, spec.Snapshot, labels.Of(spec.Labels)
	if spec.SizeBytes != 0 {
		want.SizeBytes = spec.SizeBytes
	}
	if spec.MountOptions != nil {
		want.MountOptions = mountoptions.Split(*spec.MountOptions...)
	}
	limited := have.QuotaBytes > 0
	return sameVolume(have, want, [3]any{"size_limit", limited, valueOr(spec.SizeLimit, limited)})
}

// original is the source of a clone or snapshot.
type original struct {
	ondisk.Source
	Properties
	volumeID uuid.UUID
	id       uint64
}

func (t *Tenant) original(spec CloneSpec) (original, error) {
	if spec.Snapshot != "" {
		s, err := t.GetSnapshot(context.Background(), spec.Snapshot)
		return original{ondisk.Source{Dir: t.snapshotDir, Name: s.Name, UUID: s.UUID}, s.Properties, s.VolumeID, s.ID}, usable(err, s.Quarantine, s.Path)
	}
	return t.originalVolume(spec.Volume)
}

func (t *Tenant) originalVolume(name string) (original, error) {
	v, err := t.GetVolume(context.Background(), name)
	return original{ondisk.Source{Dir: t.volumeDir, Name: v.Name, UUID: v.UUID}, v.Properties, v.VolumeID, v.ID}, usable(err, v.Quarantine, v.Path)
}

func usable(err error, quarantine, path string) error {
	if err == nil && quarantine != "" {
		return quarantined(quarantine, path)
	}
	return err
}

// quarantined returns the error of an operation on a quarantined volume or snapshot. It contains
// commands for the administrator.
func quarantined(reason, path string) error {
	return agentapi.Errorf(agentapi.Quarantined, "%s is quarantined: %s. To keep it, repair it as docs/operations/quarantine.md says. To remove it, run on the storage host: btrfs subvolume delete %[1]s/%[3]s; rm -r %[1]s", path, reason, ondisk.DataDir)
}

// clone creates the volume with one commit: see ondisk.Directory.Clone.
func (t *Tenant) clone(spec CloneSpec) (Volume, error) {
	source, err := t.original(spec)
	if err != nil {
		return Volume{}, err
	}
	v, err := t.plannedVolume(source, spec)
	if err != nil {
		return Volume{}, err
	}
	if err := t.store.pool.CheckRoom(v.SizeBytes); err != nil {
		return Volume{}, err
	}
	end, err := t.admit(Volume{}, v)
	if err != nil {
		return Volume{}, err
	}
	defer end()
	if err := t.volumeDir.Clone(source.Source, &v); err != nil {
		return Volume{}, err
	}
	t.keep(v)
	return v, nil
}

// plannedVolume returns the volume that a clone becomes. Its note says what to change on the
// snapshot.
func (t *Tenant) plannedVolume(source original, spec CloneSpec) (Volume, error) {
	p, err := t.store.sized(source, spec.SizeBytes)
	if err != nil {
		return Volume{}, err
	}
	if !valueOr(spec.SizeLimit, true) {
		p.QuotaBytes = 0
		if err := t.validateUnlimited(); err != nil {
			return Volume{}, err
		}
	}
	v := Volume{
		Name: spec.Name, VolumeID: uuid.New(), Path: t.volumeDir.Path(spec.Name), Labels: labels.Of(spec.Labels),
		SourceVolume: spec.Volume, SourceSnapshot: spec.Snapshot, SourceVolumeID: source.volumeID, CreatedAt: now(),
	}
	v.UpdatedAt = v.CreatedAt
	if err := t.store.choose(&v, p, spec.RequestedProperties); err != nil {
		return Volume{}, err
	}
	if to := source.ChangedTo(v.Properties); !to.IsEmpty() {
		v.Pending = ondisk.PendingChanges{{To: to}}
	}
	return v, nil
}

// sized returns the properties of a clone of that size. 0 means the size of the source. The clone
// of a volume without a limit has a limit. That limit covers at least the data of the source. If
// the request names no size, it leaves a quarter of that free, because the owner has to be able to
// write.
func (s *Store) sized(source original, size int64) (Properties, error) {
	p, least := source.Properties, source.SizeBytes
	if p.QuotaBytes == 0 {
		used, err := s.pool.UsageNow(source.id)
		if err != nil {
			return p, err
		}
		least = max(least, used.UsedBytes)
		if size == 0 {
			least = max(least, used.UsedBytes+used.UsedBytes/4)
		}
		p.QuotaBytes = least
	}
	if size == 0 {
		p.SizeBytes = least
		return p, nil
	}
	if size < least {
		return p, invalid("size_bytes is %d, the source has %d: a clone cannot be smaller", size, least)
	}
	p.SizeBytes, p.QuotaBytes = size, max(size, p.QuotaBytes)
	return p, nil
}

func formatLabels(labels labels.Set) string {
	if len(labels) == 0 {
		return ""
	}
	return fmt.Sprint(labels.Map())
}

func formatOptions(options []string) string { return strings.Join(options, ",") }

// sameSource refuses an existing clone if the request names a source of the same name, but of
// another volume. If the source is gone, an earlier call may have created the clone.
func (t *Tenant) sameSource(clone Volume, spec CloneSpec) error {
	source, err := t.original(spec)
	known := err == nil && clone.SourceVolumeID != uuid.Nil && !ondisk.IsDerived(source.volumeID)
	if known && clone.SourceVolumeID != source.volumeID {
		return conflict("volume", clone.Name, fmt.Sprintf("it is a clone of volume %s, the source is of volume %s",
			clone.SourceVolumeID, source.volumeID))
	}
	return nil
}
