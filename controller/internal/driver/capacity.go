package driver

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/agents"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// GetCapacity is what can really be written to the agents' pools, in bytes: of the class that
// the parameters name, or of all of them. Two tenants of one agent share its pool, and each can
// have its limits. What the driver cannot make has capacity 0.
func (c *controller) GetCapacity(ctx context.Context, r *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	pools, err := c.agents.Pools(ctx, r.GetParameters())
	if err != nil {
		return nil, withCode(err)
	}
	out := &csi.GetCapacityResponse{MinimumVolumeSize: wrapperspb.Int64(agentapi.MinSizeBytes)}
	if !canMake(r.GetVolumeCapabilities()) {
		return out, nil
	}
	for _, tenants := range pools {
		available, err := poolCapacity(ctx, tenants)
		if err != nil {
			return nil, err
		}
		out.AvailableCapacity += available
	}
	return out, nil
}

// poolCapacity is what the tenants of one agent can still make, and no more than its pool has free.
func poolCapacity(ctx context.Context, tenants []*agents.Target) (int64, error) {
	var free, allowed int64
	for _, tenant := range tenants {
		stats, err := tenant.Stats(ctx)
		if err != nil {
			return 0, err
		}
		free = stats.Btrfs.FreeBytes
		allowed += min(allowance(stats), free)
	}
	return min(free, allowed), nil
}

// allowance is how much its limits let a tenant make. An agent that knows no limits sends none.
func allowance(stats *agentapi.Stats) int64 {
	limits := stats.TenantLimits
	switch {
	case limits == nil:
		return stats.Btrfs.FreeBytes
	case limits.MaxVolumes > 0 && limits.Volumes >= limits.MaxVolumes:
		return 0
	case limits.MaxSizeBytes == 0:
		return stats.Btrfs.FreeBytes
	}
	return max(0, limits.MaxSizeBytes-limits.SizeBytes)
}
