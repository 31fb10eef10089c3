package storage

import (
	"fmt"
	"time"

	"github.com/google/uuid"
)

// The ID of a volume is random (UUID version 4) and never changes. A volume of 57e475d gets a
// derived ID (version 5) each time it is loaded. The agent derives it from fields that no change of
// a volume changes. The next write of its metadata stores it. So no start has to rewrite all files,
// and a read-only pool works.
//
// 57e475d drops the ID of a volume when it rewrites its metadata, and takes snapshots without an
// ID. The rules of isOf cover that as well.

// derivedIDs is the namespace of derived volume IDs.
var derivedIDs = uuid.MustParse("4c67f335-eeec-45cf-bcbb-c6b0ea3af051")

// derivedID returns the ID of a volume without a stored one.
func derivedID(name string, createdAt time.Time) uuid.UUID {
	return uuid.NewSHA1(derivedIDs, []byte(name+"\x00"+createdAt.UTC().Format(time.RFC3339Nano)))
}

func isDerived(id uuid.UUID) bool { return id.Version() == 5 }

// ownVolumeID returns the ID of the volume of this metadata. It is zero for metadata that could not
// be read.
func (m metadata) ownVolumeID() uuid.UUID {
	if m.VolumeID == uuid.Nil && m.Name != "" {
		return derivedID(m.Name, m.CreatedAt)
	}
	return m.VolumeID
}

// isOf reports whether the snapshot is one of this volume, and not of a deleted volume of the same
// name.
//
//  1. Equal IDs prove it.
//  2. Two different IDs disprove it if both were stored at creation.
//  3. If 57e475d wrote one of the two, the same data subvolume proves it.
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

// groups returns the groups of the catalogue that contain the snapshot: one for the ID of its
// volume, and one for the name.
func (s *Snapshot) groups() []string {
	groups := []string{nameGroup(s.Volume)}
	if s.VolumeID != uuid.Nil {
		groups = append(groups, idGroup(s.VolumeID))
	}
	return groups
}

func nameGroup(volume string) string { return "name " + volume }

func idGroup(volumeID uuid.UUID) string { return "id " + string(volumeID[:]) }

// snapshotsOf selects the snapshots of a volume: those in the groups for which isOf is true. If no
// volume has the name, or its ID is unknown, the name alone decides.
func (t *Tenant) snapshotsOf(volume string) (groups []string, isOf func(*Snapshot) bool) {
	groups = []string{nameGroup(volume)}
	v, found := t.volumes.get(volume)
	if !found || v.VolumeID == uuid.Nil {
		return groups, func(s *Snapshot) bool { return s.Volume == volume }
	}
	return append(groups, idGroup(v.VolumeID)), func(s *Snapshot) bool { return s.isOf(&v) }
}

// withVolumeID sets the ID of a snapshot that has no ID, or another ID than its volume has now.
func (t *Tenant) withVolumeID(s Snapshot) Snapshot {
	v, found := t.volumes.get(s.Volume)
	if found && v.VolumeID != uuid.Nil && s.isOf(&v) {
		s.VolumeID = v.VolumeID
	}
	return s
}

// sameSource refuses an existing clone if the request names a source of the same name, but of
// another volume. If the source is gone, an earlier call may have created the clone.
func (t *Tenant) sameSource(clone Volume, spec CloneSpec) error {
	source, err := t.original(spec)
	known := err == nil && clone.SourceVolumeID != uuid.Nil && !isDerived(source.volumeID)
	if known && clone.SourceVolumeID != source.volumeID {
		return conflict("volume", clone.Name, fmt.Sprintf("it is a clone of volume %s, the source is of volume %s",
			clone.SourceVolumeID, source.volumeID))
	}
	return nil
}
