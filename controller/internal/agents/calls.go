package agents

import (
	"context"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
)

// The calls of agentclient.Client that the driver makes, see there.

// CreateVolume makes a volume.
func (a *Agent) CreateVolume(ctx context.Context, r agentapi.VolumeCreate) (*agentapi.VolumeDetail, error) {
	return call(ctx, a, func(c *agentclient.Client) (*agentapi.VolumeDetail, error) { return c.CreateVolume(ctx, r) })
}

// CloneVolume makes a volume from another.
func (a *Agent) CloneVolume(ctx context.Context, r agentapi.VolumeClone) (*agentapi.VolumeDetail, error) {
	return call(ctx, a, func(c *agentclient.Client) (*agentapi.VolumeDetail, error) { return c.CloneVolume(ctx, r) })
}

// CloneSnapshot makes a volume from a snapshot.
func (a *Agent) CloneSnapshot(ctx context.Context, r agentapi.SnapshotClone) (*agentapi.VolumeDetail, error) {
	return call(ctx, a, func(c *agentclient.Client) (*agentapi.VolumeDetail, error) { return c.CloneSnapshot(ctx, r) })
}

// GetVolume reads a volume with its export references.
func (a *Agent) GetVolume(ctx context.Context, name string) (*agentapi.VolumeDetail, error) {
	return call(ctx, a, func(c *agentclient.Client) (*agentapi.VolumeDetail, error) { return c.GetVolume(ctx, name) })
}

// UpdateVolume changes a volume.
func (a *Agent) UpdateVolume(ctx context.Context, name string, r agentapi.VolumeUpdate) (*agentapi.VolumeDetail, error) {
	return call(ctx, a, func(c *agentclient.Client) (*agentapi.VolumeDetail, error) { return c.UpdateVolume(ctx, name, r) })
}

// DeleteVolume removes a volume; one that is not there is fine.
func (a *Agent) DeleteVolume(ctx context.Context, name string) error {
	return a.do(ctx, func(c *agentclient.Client) error { return c.DeleteVolume(ctx, name) })
}

// Export lets an address mount the volume.
func (a *Agent) Export(ctx context.Context, volume string, r agentapi.ExportRequest) (*agentapi.Export, error) {
	return call(ctx, a, func(c *agentclient.Client) (*agentapi.Export, error) { return c.Export(ctx, volume, r) })
}

// Unexport removes an address's references that carry the labels.
func (a *Agent) Unexport(ctx context.Context, volume string, r agentapi.UnexportRequest) error {
	return a.do(ctx, func(c *agentclient.Client) error { return c.Unexport(ctx, volume, r) })
}

// CreateSnapshot makes a snapshot.
func (a *Agent) CreateSnapshot(ctx context.Context, r agentapi.SnapshotCreate) (*agentapi.SnapshotDetail, error) {
	return call(ctx, a, func(c *agentclient.Client) (*agentapi.SnapshotDetail, error) { return c.CreateSnapshot(ctx, r) })
}

// GetSnapshot reads a snapshot.
func (a *Agent) GetSnapshot(ctx context.Context, name string) (*agentapi.SnapshotDetail, error) {
	return call(ctx, a, func(c *agentclient.Client) (*agentapi.SnapshotDetail, error) { return c.GetSnapshot(ctx, name) })
}

// DeleteSnapshot removes a snapshot; one that is not there is fine.
func (a *Agent) DeleteSnapshot(ctx context.Context, name string) error {
	return a.do(ctx, func(c *agentclient.Client) error { return c.DeleteSnapshot(ctx, name) })
}

// Stats are the pool's.
func (a *Agent) Stats(ctx context.Context) (*agentapi.Stats, error) {
	return call(ctx, a, func(c *agentclient.Client) (*agentapi.Stats, error) { return c.Stats(ctx) })
}

// ListVolumes reads a page of the tenant's volumes.
func (a *Agent) ListVolumes(ctx context.Context, p agentclient.Page) (*agentapi.VolumeDetailList, error) {
	return call(ctx, a, func(c *agentclient.Client) (*agentapi.VolumeDetailList, error) { return c.ListVolumes(ctx, p) })
}

// ListDegraded reads a page of the tenant's volumes whose health is degraded.
func (a *Agent) ListDegraded(ctx context.Context, p agentclient.Page) (*agentapi.VolumeDetailList, error) {
	return call(ctx, a, func(c *agentclient.Client) (*agentapi.VolumeDetailList, error) { return c.ListDegraded(ctx, p) })
}

// ListSnapshots reads a page of the snapshots of a volume, or with volume "" of the tenant.
func (a *Agent) ListSnapshots(ctx context.Context, volume string, p agentclient.Page) (*agentapi.SnapshotDetailList, error) {
	return call(ctx, a, func(c *agentclient.Client) (*agentapi.SnapshotDetailList, error) {
		return c.ListSnapshots(ctx, volume, p)
	})
}
