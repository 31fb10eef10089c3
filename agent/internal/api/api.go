// Package api is the HTTP API of the agent: routes generated from shared/agentapi/openapi.yaml,
// authentication, and the translation between the wire format and the domain. It makes no decision
// about volumes.
package api

import (
	"context"
	"net/netip"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
)

// The generator cannot run in workspace mode: GOWORK=off go generate ./internal/api
//go:generate env GOWORK=off go tool -modfile=../../../tools/go.mod oapi-codegen -config server.cfg.yaml ../../../shared/agentapi/openapi.yaml

// Store is what the API needs of the whole domain. Errors with an agentapi.Code go to the client
// with that code. All others are internal errors, whose text appears only in the log.
type Store interface {
	// Tenant returns one tenant, which must be one with a token.
	Tenant(name string) (Tenant, error)
	// ReportByToken returns Forbidden if the token is not for that volume.
	ReportByToken(ctx context.Context, volume, usageToken string) (storage.Report, error)
	Stats(ctx context.Context) (storage.Stats, error)
	// Conditions are shown to any client, so they name no tenants and volumes.
	Conditions() []storage.Condition
	// Ready returns nil while changes are accepted, and otherwise Unavailable with the reason.
	Ready() error
}

// Tenant is what the API needs of the volumes of one tenant. Contexts limit how long a call waits
// for locks. A change that has begun finishes even if its context ends.
type Tenant interface {
	CreateVolume(ctx context.Context, spec storage.VolumeSpec) (v storage.Volume, created bool, err error)
	GetVolume(ctx context.Context, name string) (storage.Volume, error)
	ListVolumes(ctx context.Context, q storage.Query) (storage.Page[storage.Volume], error)
	UpdateVolume(ctx context.Context, name string, u storage.VolumeUpdate) (storage.Volume, error)
	DeleteVolume(ctx context.Context, name string) error
	Clone(ctx context.Context, spec storage.CloneSpec) (v storage.Volume, created bool, err error)

	CreateSnapshot(ctx context.Context, spec storage.SnapshotSpec) (s storage.Snapshot, created bool, err error)
	GetSnapshot(ctx context.Context, name string) (storage.Snapshot, error)
	ListSnapshots(ctx context.Context, q storage.Query) (storage.Page[storage.Snapshot], error)
	DeleteSnapshot(ctx context.Context, name string) error

	Export(ctx context.Context, volume string, spec storage.ExportSpec) (storage.ExportGrant, error)
	Unexport(ctx context.Context, volume string, client netip.Addr, labels map[string]string) error
	ListExports(ctx context.Context, q storage.Query) (storage.Page[storage.ExportEntry], error)

	// Usage reads many subvolumes, by ID, in one call.
	Usage(ctx context.Context, ids ...uint64) (map[uint64]storage.Usage, error)
	Report(ctx context.Context, volume string) (storage.Report, error)
	// Health is read once for all volumes of a response.
	Health(ctx context.Context) storage.Health
}
