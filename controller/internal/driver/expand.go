package driver

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
)

// ControllerExpandVolume grows a volume. The nodes have nothing to do. A volume that is large
// enough stays as it is. One that is larger than the limit is OutOfRange: volumes never shrink.
func (c *controller) ControllerExpandVolume(ctx context.Context, r *csi.ControllerExpandVolumeRequest) (_ *csi.ControllerExpandVolumeResponse, err error) {
	defer notFinal(&err)
	v, err := existingVolume(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if r.GetCapacityRange() == nil {
		return nil, invalidf("capacity_range must not be empty")
	}
	size, err := parseRange(r.GetCapacityRange())
	if err != nil {
		return nil, err
	}
	if r.GetVolumeCapability() != nil {
		if err := csiserver.CheckCapability(r.GetVolumeCapability()); err != nil {
			return nil, invalidf("volume_capability: %v", err)
		}
	}
	target, volume, err := c.volume(ctx, v, r.GetSecrets())
	if err != nil {
		return nil, err
	}
	if now := capacity(volume); now > size.limit {
		return nil, outOfRange("volume %s has %d bytes, which is more than limit_bytes %d, and volumes never shrink", v, now, size.limit)
	}
	if capacity(volume) < size.required {
		if volume, err = target.UpdateVolume(ctx, v.Name, agentapi.VolumeUpdate{SizeBytes: &size.required}); err != nil {
			return nil, err
		}
	}
	return &csi.ControllerExpandVolumeResponse{CapacityBytes: capacity(volume), NodeExpansionRequired: false}, nil
}
