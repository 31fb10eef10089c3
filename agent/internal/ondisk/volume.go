// Package ondisk reads and writes what volumes and snapshots have on the pool: directories,
// subvolumes, metadata and references. It knows how an interrupted write looks, and no locks,
// requests or exports.
package ondisk

import (
	"crypto/rand"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/labels"
	"github.com/google/uuid"
)

// Volume is the intended state of one volume. Copies share lists and labels, which are replaced and
// never changed.
type Volume struct {
	Name     string
	VolumeID uuid.UUID // permanent, also if the name changes; zero if the metadata cannot be read
	UUID     uuid.UUID // of the data subvolume
	ID       uint64    // of the data subvolume; key to Usage; 0 for a quarantined volume without data
	Path     string    // directory that contains data
	Properties
	Labels         labels.Set
	MountOptions   []string  // NFS mount options for the next mount
	SourceVolume   string    // the source if it is a clone of a volume
	SourceSnapshot string    // the source if it is a clone of a snapshot
	SourceVolumeID uuid.UUID // volume that the contents come from; zero if unknown
	Refs           []Ref
	Quarantine     string // why the volume cannot be used; "" if it can
	RefsUnknown    bool   // a quarantined volume may have clients that Refs does not list
	CreatedAt      time.Time
	UpdatedAt      time.Time
	LastAttachAt   time.Time // zero: never

	Pending PendingChanges // see storage/change.go
}

// Ref is a reference that gives a client access: the client and the labels of the caller. Several
// references may name one client. Together they are its attachment to the volume.
type Ref struct {
	Client   netip.Addr `json:"client"`
	ReadOnly bool       `json:"read_only,omitempty"`
	Labels   labels.Set `json:"labels,omitempty"`

	Attachment

	// Ended means that an unexport has begun and has not succeeded yet. The reference still counts,
	// but no longer gives the client access. Another export of it begins a new attachment.
	Ended bool `json:"-"`

	CreatedAt time.Time `json:"created_at"`
}

// Attachment identifies the period from the first reference of a client to a volume to its last.
// All live references of one client to one volume have the same attachment. It is zero in
// references of version 1, whose file handles contain the UUID of the subvolume.
type Attachment struct {
	// FSID is the file system ID in the file handles of the client: 128 random bits, never reused
	// for another attachment.
	FSID uuid.UUID `json:"fsid,omitzero"`

	// Subvolume is the data for which the ID was created. Handles must become stale when the data
	// is replaced. With the same ID, they would lead to the previous subvolume as long as it
	// exists.
	Subvolume uuid.UUID `json:"subvolume,omitzero"`
}

// Snapshot is a read-only subvolume with the contents of a volume at one moment.
type Snapshot struct {
	Name       string
	UUID       uuid.UUID
	ParentUUID uuid.UUID // data subvolume of the volume
	ID         uint64
	Path       string
	Volume     string    // name of the volume at the time of the snapshot
	VolumeID   uuid.UUID // ID of that volume; zero if unknown
	Properties
	Labels     labels.Set
	Nested     []string // subvolumes within the volume, which are empty directories here; not all of them if there are many
	Quarantine string
	CreatedAt  time.Time
	UpdatedAt  time.Time
}

// AttachmentOf returns the attachment of the client's live references, or a new one.
func (v Volume) AttachmentOf(client netip.Addr) Attachment {
	for _, ref := range v.Refs {
		if ref.Client == client && !ref.Ended {
			return ref.Attachment
		}
	}
	a := Attachment{Subvolume: v.UUID}
	_, _ = rand.Read(a.FSID[:]) // never fails: crypto/rand
	return a
}

// FSIDOf returns the file system ID for handles of the subvolume data.
func (a Attachment) FSIDOf(data uuid.UUID) uuid.UUID {
	switch {
	case a == Attachment{}:
		return data
	case a.Subvolume != data && data != uuid.Nil:
		return uuid.NewSHA1(a.FSID, data[:])
	default:
		return a.FSID
	}
}

// Ended returns the volume with these references marked as ended.
func (v Volume) Ended(refs []Ref) Volume {
	v.Refs = slices.Clone(v.Refs)
	for i := range v.Refs {
		if slices.ContainsFunc(refs, func(r Ref) bool { return r.Key() == v.Refs[i].Key() }) {
			v.Refs[i].Ended = true
		}
	}
	return v
}

// RefersTo reports whether a live or ended reference names the client.
func (v Volume) RefersTo(client netip.Addr) bool {
	return slices.ContainsFunc(v.Refs, func(r Ref) bool { return r.Client == client })
}

// HasClient reports whether a reference gives the client access.
func (v Volume) HasClient(client netip.Addr) bool {
	return slices.ContainsFunc(v.Refs, func(r Ref) bool { return r.Client == client && !r.Ended })
}

// HasData is false for a quarantined volume with a missing subvolume.
func (v Volume) HasData() bool { return v.ID != 0 }

// Clients returns the clients that have access, each one once.
func (v Volume) Clients() []netip.Addr {
	var out []netip.Addr
	for _, ref := range v.Refs { // sorted by client
		if !ref.Ended && (len(out) == 0 || out[len(out)-1] != ref.Client) {
			out = append(out, ref.Client)
		}
	}
	return out
}

// DataPath returns the exported path.
func (v Volume) DataPath() string { return filepath.Join(v.Path, DataDir) }

// IsOf reports whether the snapshot is one of this volume, and not of a deleted volume of the same
// name.
//
//  1. Equal IDs prove it.
//  2. Two different IDs disprove it if both were stored at creation.
//  3. If 57e475d wrote one of the two, the same data subvolume proves it.
//  4. Otherwise the volume must be one that 57e475d wrote, and not younger than the snapshot.
func (s *Snapshot) IsOf(v *Volume) bool {
	switch {
	case s.VolumeID == v.VolumeID:
		return true
	case s.Volume != v.Name:
		return false
	case s.VolumeID != uuid.Nil && !IsDerived(v.VolumeID):
		return false
	case s.ParentUUID != uuid.Nil && s.ParentUUID == v.UUID:
		return true
	}
	return IsDerived(v.VolumeID) && !s.CreatedAt.Before(v.CreatedAt)
}
