// Package storage is the domain of the agent. Volumes, snapshots, clones and exports are btrfs
// subvolumes below one base path. It keeps the rules of docs/architecture.md: acknowledged means
// durable, a change is complete or absent, the same request returns the same result, and each name
// has one writer.
package storage

import (
	"net/netip"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/pool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// VolumeSpec is a request for a new volume.
type VolumeSpec struct {
	Name       string
	SizeBytes  int64
	QuotaBytes int64 // 0: SizeBytes
	Labels     map[string]string

	// Without a mode the volume has AGENT_DEFAULT_DATA_MODE, without the others zero values, and
	// without a SizeLimit a limit.
	agentapi.RequestedProperties
}

// CloneSpec is a request for a new volume with the contents of a volume or of a snapshot. Exactly
// one of the two is set.
type CloneSpec struct {
	Name      string
	Volume    string
	Snapshot  string
	SizeBytes int64 // 0: the size of the source
	Labels    map[string]string

	// Nil means the value of the source, except for SizeLimit and MountOptions. A value that equals
	// the intended value of the source is not set on the data. Users of the source may have changed
	// it there, and the clone keeps that.
	agentapi.RequestedProperties
}

// SnapshotSpec is a request for a snapshot of a volume.
type SnapshotSpec struct {
	Name   string
	Volume string
	Labels map[string]string
}

// VolumeUpdate changes the fields that are not nil.
type VolumeUpdate struct {
	SizeBytes *int64
	Labels    map[string]string // replaces all labels except created-by

	// RootSquash also applies to clients that have access already. MountOptions replace all.
	agentapi.RequestedProperties
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

// Pool returns the part of the configuration for the pool.
func (c Config) Pool() pool.Config {
	return pool.Config{
		BasePath: c.BasePath, ID: c.PoolID, Quota: c.Quota, ScrubDir: c.ScrubDir, Logger: c.Logger,
		CommitInterval: c.CommitInterval, ClientOperations: c.ClientOperations, Fault: c.fault, Fstab: c.fstab,
	}
}

// Conditions are those of the pool.
type Conditions = pool.Conditions

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

// Volume is a volume: see package ondisk, as for the other three.
type Volume = ondisk.Volume

// Snapshot is a snapshot of a volume.
type Snapshot = ondisk.Snapshot

// Ref gives a client access.
type Ref = ondisk.Ref

// Properties are the properties that volumes and snapshots share.
type Properties = ondisk.Properties
