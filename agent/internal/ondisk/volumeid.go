package ondisk

import (
	"time"

	"github.com/google/uuid"
)

// The ID of a volume is random (UUID version 4) and never changes. A volume of 57e475d gets a
// derived ID (version 5) each time it is loaded. The agent derives it from fields that no change of
// a volume changes. The next write of its metadata stores it. So no start has to rewrite all files,
// and a read-only pool works.
//
// 57e475d drops the ID of a volume when it rewrites its metadata, and takes snapshots without an
// ID. The rules of IsOf cover that as well.

// derivedIDs is the namespace of derived volume IDs.
var derivedIDs = uuid.MustParse("4c67f335-eeec-45cf-bcbb-c6b0ea3af051")

// derivedID returns the ID of a volume without a stored one.
func derivedID(name string, createdAt time.Time) uuid.UUID {
	return uuid.NewSHA1(derivedIDs, []byte(name+"\x00"+createdAt.UTC().Format(time.RFC3339Nano)))
}

// IsDerived reports whether the ID of a volume was not stored.
func IsDerived(id uuid.UUID) bool { return id.Version() == 5 }

// ownVolumeID returns the ID of the volume of this metadata. It is zero for metadata that could not
// be read.
func (m Metadata) ownVolumeID() uuid.UUID {
	if m.VolumeID == uuid.Nil && m.Name != "" {
		return derivedID(m.Name, m.CreatedAt)
	}
	return m.VolumeID
}
