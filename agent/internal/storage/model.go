// Package storage is the domain of the agent. Volumes, snapshots, clones and exports are btrfs
// subvolumes below one base path. It keeps the rules of docs/architecture.md: acknowledged means
// durable, a change is complete or absent, the same request returns the same result, and each name
// has one writer.
package storage

import (
	"net/netip"
	"time"

	"github.com/google/uuid"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/labels"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/pool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// Properties are the properties that volumes and snapshots share. Owner and mode are those of the
// root directory of the subvolume.
type Properties struct {
	SizeBytes   int64  `json:"size_bytes"`
	QuotaBytes  int64  `json:"quota_bytes"` // 0: no limit
	NoCOW       bool   `json:"nocow"`
	Compression string `json:"compression"` // btrfs.compression; "" means the default of the filesystem
	UID         int64  `json:"uid"`
	GID         int64  `json:"gid"`
	RootSquash  bool   `json:"root_squash,omitempty"` // maps root of a client to the anonymous user
	Mode        uint32 `json:"mode"`                  // permission bits, setuid, setgid, sticky: 0 to 07777
}

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

	Pending pendingChanges // see change.go
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

// VolumeSpec is a request for a new volume.
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

// CloneSpec is a request for a new volume with the contents of a volume or of a snapshot. Exactly
// one of the two is set.
type CloneSpec struct {
	Name      string
	Volume    string
	Snapshot  string
	SizeBytes int64 // 0: the size of the source
	Labels    map[string]string

	// Nil means the value of the source. A value that equals the intended value of the source is
	// not set on the data. Users of the source may have changed it there, and the clone keeps that.

	NoCOW       *bool
	Compression *string
	RootSquash  *bool
	UID, GID    *int64
	Mode        *uint32

	SizeLimit    *bool // nil: true
	MountOptions []string
}

// SnapshotSpec is a request for a snapshot of a volume.
type SnapshotSpec struct {
	Name   string
	Volume string
	Labels map[string]string
}

// VolumeUpdate changes the fields that are not nil.
type VolumeUpdate struct {
	SizeBytes   *int64
	NoCOW       *bool
	Compression *string
	RootSquash  *bool // also for clients that have access already
	UID, GID    *int64
	Mode        *uint32
	Labels      map[string]string // replaces all labels except created-by, if not nil

	SizeLimit    *bool    // false removes the limit, true sets it to the size
	MountOptions []string // replaces all, if not nil
}

// ExportSpec is a request for access of a client.
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
	CreatedBy string // who requested the reference
	Ref
}

// Query selects a page of a list.
type Query struct {
	Limit  int      // 0: everything
	After  string   // cursor from the previous page
	Labels []string // key=value or key; all must match
	// Degraded selects volumes with conditions: see Health.
	Degraded bool
	Volume   string // snapshots of this volume only: see Tenant.snapshotsOf
}

// Page is a part of a list in the order of names.
type Page[T any] struct {
	Items []T
	Total int    // number of all matching items
	Next  string // cursor; "" at the end
}

// Report is what the user of one volume may know about it.
type Report struct {
	QuotaBytes int64 // 0 if quotas are off or have no counts for the volume
	UsedBytes  int64
	Conditions []Condition
}

// Stats holds the numbers of the pool and of its tenants.
type Stats struct {
	pool.Stats
	Tenants map[string]TenantStats // by name
}

// Condition is a problem of the pool or a volume.
type Condition = agentapi.Condition

// Usage holds the kernel's counts of one subvolume.
type Usage = pool.Usage

// Quota is how the agent enforces sizes: docs/architecture.md, "Quotas".
type Quota = pool.Quota

// Modes of AGENT_QUOTA_MODE.
const (
	QuotaAuto   = pool.QuotaAuto
	QuotaFull   = pool.QuotaFull
	QuotaSimple = pool.QuotaSimple
	QuotaOff    = pool.QuotaOff
)
