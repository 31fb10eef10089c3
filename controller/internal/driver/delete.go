package driver

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// DeleteVolume deletes a volume. It succeeds for an ID of another driver, because no such volume
// can exist. A published volume is FailedPrecondition.
func (c *controller) DeleteVolume(ctx context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	if r.GetVolumeId() == "" {
		return nil, invalidf("volume_id must not be empty")
	}
	v, err := id.ParseVolume(r.GetVolumeId())
	if err != nil {
		c.logger.Info("nothing to delete: the volume ID is not of this driver", "volume", r.GetVolumeId(), "reason", err)
		return &csi.DeleteVolumeResponse{}, nil
	}
	target, err := c.target(ctx, v, r.GetSecrets())
	if err != nil {
		return nil, err
	}
	if err := target.DeleteVolume(ctx, v.Name); err != nil && !agentapi.IsCode(err, agentapi.NotFound) {
		return nil, err
	}
	return &csi.DeleteVolumeResponse{}, nil
}

// DeleteSnapshot deletes a snapshot. Volumes that were created from it stay.
func (c *controller) DeleteSnapshot(ctx context.Context, r *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	if r.GetSnapshotId() == "" {
		return nil, invalidf("snapshot_id must not be empty")
	}
	v, err := id.ParseVolume(r.GetSnapshotId())
	if err != nil {
		c.logger.Info("nothing to delete: the snapshot ID is not of this driver", "snapshot", r.GetSnapshotId(), "reason", err)
		return &csi.DeleteSnapshotResponse{}, nil
	}
	target, err := c.target(ctx, v, r.GetSecrets())
	if err != nil {
		return nil, err
	}
	if err := target.DeleteSnapshot(ctx, v.Name); err != nil && !agentapi.IsCode(err, agentapi.NotFound) {
		return nil, err
	}
	return &csi.DeleteSnapshotResponse{}, nil
}
