package driver

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/agents"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// GetCapacity returns the bytes that can be written to the agents' pools: to those of the class
// that the parameters name, or to all. Two tenants of one agent share its pool, and each can have
// limits. The capacity for parameters that the driver does not support is 0.
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

// poolCapacity returns the bytes that the tenants of one agent can still allocate, at most the free
// space of its pool.
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

// allowance returns the bytes that its limits leave to a tenant. An agent without the feature sends
// no limits.
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
