package storage

import (
	"fmt"
	"time"

	"github.com/google/uuid"
)

// A volume's ID is random (UUID version 4) and never changes. A volume that 57e475d has made
// gets a derived one (version 5) each time it is loaded, from what no change of a volume
// changes. The next write of its metadata stores it. So no start has to rewrite all files, and
// a read-only pool works.
//
// 57e475d drops the ID of a volume whose metadata it rewrites, and takes snapshots without one. The
// rules of isOf cover that as well.

// derivedIDs is the namespace of derived volume IDs.
var derivedIDs = uuid.MustParse("4c67f335-eeec-45cf-bcbb-c6b0ea3af051")

// derivedID is the ID of a volume without a stored one.
func derivedID(name string, createdAt time.Time) uuid.UUID {
	return uuid.NewSHA1(derivedIDs, []byte(name+"\x00"+createdAt.UTC().Format(time.RFC3339Nano)))
}

func isDerived(id uuid.UUID) bool { return id.Version() == 5 }

// ownVolumeID is the ID of the volume that this is the metadata of. It is zero for metadata that
// could not be read.
func (m metadata) ownVolumeID() uuid.UUID {
	if m.VolumeID == uuid.Nil && m.Name != "" {
		return derivedID(m.Name, m.CreatedAt)
	}
	return m.VolumeID
}

// isOf reports whether the snapshot is of this volume, and not of a deleted one of the same name.
//
//  1. The same ID proves it.
//  2. Two IDs that were stored when they were made disprove it.
//  3. Where 57e475d wrote one of the two, the same data subvolume proves it.
//  4. Otherwise the volume must be one that 57e475d wrote, and not younger than the snapshot.
func (s *Snapshot) isOf(v *Volume) bool {
	switch {
	case s.VolumeID == v.VolumeID:
		return true
	case s.Volume != v.Name:
		return false
	case s.VolumeID != uuid.Nil && !isDerived(v.VolumeID):
		return false
	case s.ParentUUID != uuid.Nil && s.ParentUUID == v.UUID:
		return true
	}
	return isDerived(v.VolumeID) && !s.CreatedAt.Before(v.CreatedAt)
}

// groups are those of the catalogue that the snapshot is in: one for the ID of its volume, and one
// for the name.
func (s *Snapshot) groups() []string {
	groups := []string{nameGroup(s.Volume)}
	if s.VolumeID != uuid.Nil {
		groups = append(groups, idGroup(s.VolumeID))
	}
	return groups
}

func nameGroup(volume string) string { return "name " + volume }

func idGroup(volumeID uuid.UUID) string { return "id " + string(volumeID[:]) }

// snapshotsOf selects the snapshots of a volume: those in the groups for which isOf is true. Where
// no volume has the name, or its ID is unknown, it selects by the name alone.
func (t *Tenant) snapshotsOf(volume string) (groups []string, isOf func(*Snapshot) bool) {
	groups = []string{nameGroup(volume)}
	v, found := t.volumes.get(volume)
	if !found || v.VolumeID == uuid.Nil {
		return groups, func(s *Snapshot) bool { return s.Volume == volume }
	}
	return append(groups, idGroup(v.VolumeID)), func(s *Snapshot) bool { return s.isOf(&v) }
}

// withVolumeID completes a snapshot that carries no ID, or another than its volume has now.
func (t *Tenant) withVolumeID(s Snapshot) Snapshot {
	v, found := t.volumes.get(s.Volume)
	if found && v.VolumeID != uuid.Nil && s.isOf(&v) {
		s.VolumeID = v.VolumeID
	}
	return s
}

// sameSource refuses a clone that is there where the request names a source of the same name,
// but of another volume. Where the source is gone, an earlier call may have made the clone.
func (t *Tenant) sameSource(clone Volume, spec CloneSpec) error {
	source, err := t.original(spec)
	known := err == nil && clone.SourceVolumeID != uuid.Nil && !isDerived(source.volumeID)
	if known && clone.SourceVolumeID != source.volumeID {
		return conflict("volume", clone.Name, fmt.Sprintf("it is a clone of volume %s, the source is of volume %s",
			clone.SourceVolumeID, source.volumeID))
	}
	return nil
}
