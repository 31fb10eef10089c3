// Package storage is the agent's domain: volumes, snapshots, clones and exports as btrfs subvolumes below one base path.
// It keeps the rules of docs/architecture.md: acknowledged means durable, whole or absent, same request same answer,
// one writer a name.
package storage

import (
	"net/netip"
	"time"

	"github.com/google/uuid"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/labels"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/pool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// Properties of a subvolume that volumes and snapshots share. Owner and mode are those of its root directory.
type Properties struct {
	SizeBytes   int64  `json:"size_bytes"`
	QuotaBytes  int64  `json:"quota_bytes"` // 0: the limit is lifted
	NoCOW       bool   `json:"nocow"`
	Compression string `json:"compression"` // btrfs.compression, "" for the filesystem's default
	UID         int64  `json:"uid"`
	GID         int64  `json:"gid"`
	RootSquash  bool   `json:"root_squash,omitempty"` // a client's root is nobody in the volume
	Mode        uint32 `json:"mode"`                  // permission bits, setuid, setgid, sticky: 0 to 07777
}

// Volume is one volume as the agent intends it. Copies share lists and labels, which are replaced and never changed.
type Volume struct {
	Name     string
	VolumeID uuid.UUID // for good, whatever becomes of the name; zero where the metadata cannot be read
	UUID     uuid.UUID // of the data subvolume
	ID       uint64    // of the data subvolume in its filesystem; key to Usage. 0: a quarantined volume without data
	Path     string    // directory that holds data
	Properties
	Labels         labels.Set
	MountOptions   []string  // NFS mount options for the next mount
	SourceVolume   string    // a clone of this volume,
	SourceSnapshot string    // or of this snapshot
	SourceVolumeID uuid.UUID // of the volume that the contents come from; zero where that is unknown
	Refs           []Ref
	Quarantine     string // why the volume cannot be used; "" for a good one
	RefsUnknown    bool   // a quarantined volume may have clients beside Refs
	CreatedAt      time.Time
	UpdatedAt      time.Time
	LastAttachAt   time.Time // zero: never

	Pending pendingChanges // see change.go
}

// Ref is one reason for a client to be let in: a client and the labels of who asked. Several may
// name one client; together they are its attachment to the volume.
type Ref struct {
	Client   netip.Addr `json:"client"`
	ReadOnly bool       `json:"read_only,omitempty"`
	Labels   labels.Set `json:"labels,omitempty"`

	Attachment

	// Ended: an unexport has begun, and has not returned without an error. The reference still
	// counts as one, but lets the client in no more. Exporting it again begins a new attachment.
	Ended bool `json:"-"`

	CreatedAt time.Time `json:"created_at"`
}

// Attachment identifies the time from a client's first reference to a volume to its last. Live
// references of one client to one volume have the same. It is zero in references of version 1,
// whose file handles carry the subvolume's UUID.
type Attachment struct {
	// FSID is the file system ID that the client's file handles carry: 128 random bits, never used
	// for another attachment.
	FSID uuid.UUID `json:"fsid,omitzero"`

	// Subvolume is the data that the ID was made for. Handles must not outlive a replacement of the
	// data: with the same ID, they would lead to the former subvolume for as long as that exists.
	Subvolume uuid.UUID `json:"subvolume,omitzero"`
}

// Snapshot is a read-only subvolume with the contents of a volume at one moment.
type Snapshot struct {
	Name       string
	UUID       uuid.UUID
	ParentUUID uuid.UUID // of the data subvolume that it is a snapshot of
	ID         uint64
	Path       string
	Volume     string    // name of the volume when the snapshot was taken
	VolumeID   uuid.UUID // of that volume; zero where that is unknown
	Properties
	Labels     labels.Set
	Nested     []string // subvolumes within the volume, which are empty directories here; not all where there are many
	Quarantine string
	CreatedAt  time.Time
	UpdatedAt  time.Time
}

// VolumeSpec asks for a new volume.
type VolumeSpec struct {
	Name        string
	SizeBytes   int64
	QuotaBytes  int64 // 0: SizeBytes
	NoCOW       bool
	Compression string
	RootSquash  bool
	UID, GID    *int64  // nil: 0
	Mode        *uint32 // nil: AGENT_DEFAULT_DATA_MODE
	Labels      map[string]string

	SizeLimit    *bool // nil: true
	MountOptions []string
}

// CloneSpec asks for a new volume with the contents of a volume or of a snapshot: exactly one of the two is set.
type CloneSpec struct {
	Name      string
	Volume    string
	Snapshot  string
	SizeBytes int64 // 0: the source's
	Labels    map[string]string

	// The source's where nil. What equals the source's intended value is not set on the data, where
	// the source's users may have changed it.

	NoCOW       *bool
	Compression *string
	RootSquash  *bool
	UID, GID    *int64
	Mode        *uint32

	SizeLimit    *bool // nil: true
	MountOptions []string
}

// SnapshotSpec asks for a snapshot of a volume.
type SnapshotSpec struct {
	Name   string
	Volume string
	Labels map[string]string
}

// VolumeUpdate changes what is not nil.
type VolumeUpdate struct {
	SizeBytes   *int64
	NoCOW       *bool
	Compression *string
	RootSquash  *bool // of clients that are let in already, too
	UID, GID    *int64
	Mode        *uint32
	Labels      map[string]string // replaces all, but created-by, when not nil

	SizeLimit    *bool    // false lifts the limit, true sets it to the size
	MountOptions []string // replaces all when not nil
}

// ExportSpec lets a client in.
type ExportSpec struct {
	Client   netip.Addr
	ReadOnly bool
	Labels   map[string]string
}

// ExportGrant is what a client needs to mount a volume and to read its usage.
type ExportGrant struct {
	Path         string
	MountPath    string
	MountOptions []string
	UsageToken   string
}

// ExportEntry is one reference of one volume.
type ExportEntry struct {
	Volume    string
	CreatedBy string // who asked for the reference
	Ref
}

// Query selects a page of a list.
type Query struct {
	Limit  int      // 0: everything
	After  string   // cursor from the page before
	Labels []string // key=value or key; all must match
	// Degraded volumes only, as Health says.
	Degraded bool
	Volume   string // snapshots of this volume only: see Tenant.snapshotsOf
}

// Page is a part of a list in the order of names.
type Page[T any] struct {
	Items []T
	Total int    // how many match in all
	Next  string // cursor; "" at the end
}

// Report is what the user of one volume may know of it.
type Report struct {
	QuotaBytes int64 // 0 where quotas are off, or do not count the volume
	UsedBytes  int64
	Conditions []Condition
}

// Stats are the numbers of the pool and of its tenants.
type Stats struct {
	pool.Stats
	Tenants map[string]TenantStats // by name
}

// Condition is something that is wrong with the pool or a volume.
type Condition = agentapi.Condition

// Usage of one subvolume as the kernel counts it.
type Usage = pool.Usage

// Quota says how sizes are enforced: docs/architecture.md, "Quotas".
type Quota = pool.Quota

// Modes of AGENT_QUOTA_MODE.
const (
	QuotaAuto   = pool.QuotaAuto
	QuotaFull   = pool.QuotaFull
	QuotaSimple = pool.QuotaSimple
	QuotaOff    = pool.QuotaOff
)
