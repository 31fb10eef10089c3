package storage

import (
	"context"
	"fmt"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/labels"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/google/uuid"
)

// CreateSnapshot creates a read-only snapshot of a volume. If the same request created the snapshot
// earlier, it returns that snapshot.
func (t *Tenant) CreateSnapshot(ctx context.Context, spec SnapshotSpec) (s Snapshot, created bool, err error) {
	if err := validateName("name", spec.Name); err != nil {
		return Snapshot{}, false, err
	}
	if err := validateName("volume", spec.Volume); err != nil {
		return Snapshot{}, false, err
	}
	if err := labels.Check(spec.Labels); err != nil {
		return Snapshot{}, false, err
	}
	err = t.store.change(ctx, func(context.Context) error {
		if have, found := t.snapshots.get(spec.Name); found {
			s = t.withVolumeID(have)
			return t.sameSnapshot(have, spec)
		}
		created = true
		s, err = t.snapshot(spec)
		return err
	}, t.snapshotLock(spec.Name), t.volumeLock(spec.Volume).as(copying))
	return s, created, err
}

// sameSnapshot reports how a snapshot differs from the requested one. If the volume is gone, an
// earlier call may have created the snapshot, and its name decides.
func (t *Tenant) sameSnapshot(have Snapshot, spec SnapshotSpec) error {
	if have.Quarantine != "" {
		return quarantinedName(have.Name, have.Quarantine)
	}
	_, isOf := t.snapshotsOf(spec.Volume)
	if have.Volume == spec.Volume && !isOf(&have) {
		return conflict("snapshot", have.Name, fmt.Sprintf("it is of a deleted volume that was called %q too", spec.Volume))
	}
	return conflict("snapshot", have.Name, differences(
		[3]any{"volume", have.Volume, spec.Volume},
		[3]any{"labels", formatLabels(have.Labels), formatLabels(labels.Of(spec.Labels))},
	))
}

func (t *Tenant) snapshot(spec SnapshotSpec) (Snapshot, error) {
	source, err := t.originalVolume(spec.Volume)
	if err != nil {
		return Snapshot{}, err
	}
	if err := t.store.pool.CheckRoom(0); err != nil {
		return Snapshot{}, err
	}
	nested, err := t.store.nestedIn(spec.Volume, source.id)
	if err != nil {
		return Snapshot{}, err
	}
	s := Snapshot{
		Name: spec.Name, Path: t.snapshotDir.Path(spec.Name), Volume: spec.Volume, VolumeID: source.volumeID,
		Properties: source.Properties, Labels: labels.Of(spec.Labels), Nested: nested, CreatedAt: now(),
	}
	s.UpdatedAt = s.CreatedAt
	if err := t.snapshotDir.Snapshot(source.Source, &s); err != nil {
		return Snapshot{}, err
	}
	t.snapshots.put(s)
	return s, nil
}

// GetSnapshot fails with NotFound if there is no such snapshot.
func (t *Tenant) GetSnapshot(_ context.Context, name string) (Snapshot, error) {
	if err := validateName("name", name); err != nil {
		return Snapshot{}, err
	}
	s, found := t.snapshots.get(name)
	if !found {
		return Snapshot{}, agentapi.Errorf(agentapi.NotFound, "there is no snapshot %q", name)
	}
	return t.withVolumeID(s), nil
}

// DeleteSnapshot deletes a snapshot. A missing snapshot counts as deleted. Clones of it are not
// affected.
func (t *Tenant) DeleteSnapshot(ctx context.Context, name string) error {
	if err := validateName("name", name); err != nil {
		return err
	}
	return t.store.change(ctx, func(ctx context.Context) error {
		s, found := t.snapshots.get(name)
		if !found {
			return nil
		}
		if err := usable(nil, s.Quarantine, s.Path); err != nil {
			return err
		}
		return t.delete(ctx, t.snapshotDir, name, s.UUID, func() { t.snapshots.remove(name) })
	}, t.snapshotLock(name))
}

// snapshotGroups returns the groups of the catalogue that contain the snapshot: one for the ID of
// its volume, and one for the name.
func snapshotGroups(s *Snapshot) []string {
	groups := []string{nameGroup(s.Volume)}
	if s.VolumeID != uuid.Nil {
		groups = append(groups, idGroup(s.VolumeID))
	}
	return groups
}

func nameGroup(volume string) string { return "name " + volume }

func idGroup(volumeID uuid.UUID) string { return "id " + string(volumeID[:]) }

// snapshotsOf selects the snapshots of a volume: those in the groups for which IsOf is true. If no
// volume has the name, or its ID is unknown, the name alone decides.
func (t *Tenant) snapshotsOf(volume string) (groups []string, isOf func(*Snapshot) bool) {
	groups = []string{nameGroup(volume)}
	v, found := t.volumes.get(volume)
	if !found || v.VolumeID == uuid.Nil {
		return groups, func(s *Snapshot) bool { return s.Volume == volume }
	}
	return append(groups, idGroup(v.VolumeID)), func(s *Snapshot) bool { return s.IsOf(&v) }
}

// withVolumeID sets the ID of a snapshot that has no ID, or another ID than its volume has now.
func (t *Tenant) withVolumeID(s Snapshot) Snapshot {
	v, found := t.volumes.get(s.Volume)
	if found && v.VolumeID != uuid.Nil && s.IsOf(&v) {
		s.VolumeID = v.VolumeID
	}
	return s
}
