package driver

import (
	"context"
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/staged"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// NodeGetVolumeStats returns quota and usage as the agent counts them. If the agent does not
// answer, the result is Unavailable, because statfs(2) over NFS describes the server's whole pool.
// The driver uses statfs(2) only if quotas are off, as the pool is then the limit, and if the
// volume was staged without an agent.
func (n *Node) NodeGetVolumeStats(ctx context.Context, r *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	if err := requireVolumeID(r.VolumeId); err != nil {
		return nil, err
	}
	if r.VolumePath == "" {
		return nil, invalid("volume_path", "must not be empty")
	}
	volume, record, err := n.findVolume(ctx, r.VolumeId, r.VolumePath)
	if err != nil {
		return nil, err
	}
	usage, err := n.agentUsage(ctx, volume, record)
	switch {
	case agentapi.IsCode(err, agentapi.NotFound):
		return nil, notFound(err)
	case err != nil:
		return nil, unavailable(fmt.Errorf("usage of volume %q: %w", r.VolumeId, err))
	case usage != nil && usage.QuotaBytes > 0:
		return quotaStats(usage), nil
	}
	capacity, err := n.Mounts.Capacity(ctx, r.VolumePath)
	if err != nil {
		return nil, mountError(err)
	}
	return poolStats(capacity, usage), nil
}

// findVolume returns NotFound unless the volume is mounted at the path. It compares with the record
// from staging. If the record is lost, it compares the name of the volume in the mounted directory
// ({volume}/data).
func (n *Node) findVolume(ctx context.Context, volumeID, path string) (id.Volume, staged.Record, error) {
	volume, err := id.ParseVolume(volumeID)
	if err != nil {
		return id.Volume{}, staged.Record{}, notFound(fmt.Errorf("volume_id %w", err))
	}
	if err := nfsmount.ValidatePath(path); err != nil {
		return id.Volume{}, staged.Record{}, notFound(fmt.Errorf("volume_path %w", err))
	}
	point, err := n.Mounts.Volume(ctx, path)
	switch {
	case errors.Is(err, nfsmount.ErrNotMounted), errors.Is(err, nfsmount.ErrTarget):
		return id.Volume{}, staged.Record{}, notFound(err)
	case err != nil:
		return id.Volume{}, staged.Record{}, mountError(err)
	}
	record, err := n.Store.Load(volumeID)
	if err != nil {
		n.Logger.WarnContext(ctx, "what was kept of the volume is lost", "volume", volumeID, "reason", err)
		record = staged.Record{Source: point.Source}
		if !isVolumeAt(volume, point) {
			return id.Volume{}, staged.Record{}, notFound(fmt.Errorf("volume %q is not mounted at %s, but %s is", volumeID, path, point.Source))
		}
	}
	if record.Source != point.Source {
		return id.Volume{}, staged.Record{}, notFound(fmt.Errorf("volume %q is not mounted at %s, but %s is", volumeID, path, point.Source))
	}
	return volume, record, nil
}

// agentUsage returns nil for a volume without an agent.
func (n *Node) agentUsage(ctx context.Context, volume id.Volume, record staged.Record) (*agentapi.Usage, error) {
	if record.VolumeID == "" {
		return nil, errors.New("what was kept of it on this node is lost until it is staged again")
	}
	if record.AgentURL == "" {
		return nil, nil
	}
	client, err := n.Agents.Get(record.AgentURL, "", nil)
	if err != nil {
		return nil, err
	}
	return client.UsageWithToken(ctx, volume.Name, record.UsageToken)
}

func quotaStats(usage *agentapi.Usage) *csi.NodeGetVolumeStatsResponse {
	stats := []*csi.VolumeUsage{{
		Unit:  csi.VolumeUsage_BYTES,
		Total: usage.QuotaBytes,
		// Never negative: metadata can push the count a little beyond the limit.
		Available: max(0, usage.QuotaBytes-usage.UsedBytes),
		Used:      usage.UsedBytes,
	}}
	return &csi.NodeGetVolumeStatsResponse{Usage: appendInodes(stats, usage)}
}

func poolStats(c nfsmount.Capacity, usage *agentapi.Usage) *csi.NodeGetVolumeStatsResponse {
	bytes := &csi.VolumeUsage{Unit: csi.VolumeUsage_BYTES, Total: c.TotalBytes, Available: c.AvailableBytes, Used: c.UsedBytes}
	if usage != nil { // quotas are off, but the agent counts usage
		bytes.Used = usage.UsedBytes
	}
	stats := []*csi.VolumeUsage{bytes}
	if c.TotalInodes > 0 {
		stats = append(stats, &csi.VolumeUsage{
			Unit: csi.VolumeUsage_INODES, Total: c.TotalInodes, Available: c.AvailableInodes, Used: c.UsedInodes,
		})
		return &csi.NodeGetVolumeStatsResponse{Usage: stats}
	}
	return &csi.NodeGetVolumeStatsResponse{Usage: appendInodes(stats, usage)}
}

// appendInodes adds the number of files if the agent knows it. btrfs has no limit for it.
func appendInodes(stats []*csi.VolumeUsage, usage *agentapi.Usage) []*csi.VolumeUsage {
	if usage == nil || usage.Inodes == nil {
		return stats
	}
	return append(stats, &csi.VolumeUsage{Unit: csi.VolumeUsage_INODES, Used: *usage.Inodes})
}
