package driver

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// GetCapacity is what can really be written to the agents' pools, in bytes: of the class that the parameters name, or of
// all of them. Two tenants of one agent share its pool. What the driver cannot make has capacity 0.
func (c *controller) GetCapacity(ctx context.Context, r *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	pools, err := c.agents.Pools(ctx, r.GetParameters())
	if err != nil {
		return nil, withCode(err)
	}
	out := &csi.GetCapacityResponse{MinimumVolumeSize: wrapperspb.Int64(agentapi.MinSizeBytes)}
	if !canMake(r.GetVolumeCapabilities()) {
		return out, nil
	}
	for _, pool := range pools {
		stats, err := pool.Stats(ctx)
		if err != nil {
			return nil, err
		}
		out.AvailableCapacity += stats.Btrfs.FreeBytes
	}
	return out, nil
}
