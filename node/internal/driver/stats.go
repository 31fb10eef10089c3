package driver

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

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
		return nil, unavailable(fmt.Errorf("read usage of volume %q: %w", r.VolumeId, err))
	case usage != nil && usage.QuotaBytes > 0:
		return &csi.NodeGetVolumeStatsResponse{Usage: quotaStats(usage)}, nil
	}
	pool, err := n.Mounts.Statfs(ctx, r.VolumePath)
	if err != nil {
		return nil, mountError(err)
	}
	return &csi.NodeGetVolumeStatsResponse{Usage: poolStats(pool, usage)}, nil
}

// findVolume returns NotFound unless the volume is mounted at the path.
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
	record, err := n.recordFor(ctx, volume, path)
	if err == nil && record.Source != point.Source {
		err = notFound(fmt.Errorf("volume %q is not mounted at %s, but %s is", volumeID, path, point.Source))
	}
	return volume, record, err
}

// recordFor returns the record of the volume. If the record is lost, it derives one from a mount of
// the volume in one of the directories: a mounted directory is named {volume}/data. The derived
// record has no volume ID, because the agent is unknown.
func (n *Node) recordFor(ctx context.Context, volume id.Volume, dirs ...string) (staged.Record, error) {
	record, err := n.Store.Load(volume.String())
	if err == nil {
		return record, nil
	}
	if !errors.Is(err, staged.ErrNotFound) {
		n.Logger.WarnContext(ctx, "failed to load the record of a volume", "volume", volume.String(), "reason", err)
	}
	for _, dir := range dirs {
		point, mountErr := n.Mounts.Volume(ctx, dir)
		if mountErr == nil && strings.HasSuffix(point.Source, "/"+volume.Name+"/"+agentapi.DataDir) {
			return staged.Record{Source: point.Source, Dir: dir, ReadOnly: point.ReadOnly}, nil
		}
	}
	return staged.Record{}, notFound(err)
}

// agentUsage returns nil for a volume without an agent.
func (n *Node) agentUsage(ctx context.Context, volume id.Volume, record staged.Record) (*agentapi.Usage, error) {
	if record.VolumeID == "" {
		return nil, errors.New("its record on this node is lost until it is staged again")
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

func quotaStats(usage *agentapi.Usage) []*csi.VolumeUsage {
	bytes := &csi.VolumeUsage{
		Unit:  csi.VolumeUsage_BYTES,
		Total: usage.QuotaBytes,
		// Never negative: metadata can push the count a little beyond the limit.
		Available: max(0, usage.QuotaBytes-usage.UsedBytes),
		Used:      usage.UsedBytes,
	}
	return append([]*csi.VolumeUsage{bytes}, inodeStats(usage)...)
}

func poolStats(pool unix.Statfs_t, usage *agentapi.Usage) []*csi.VolumeUsage {
	bytes := &csi.VolumeUsage{
		Unit:      csi.VolumeUsage_BYTES,
		Total:     int64(pool.Blocks) * pool.Bsize,
		Available: int64(pool.Bavail) * pool.Bsize,
		Used:      int64(pool.Blocks-pool.Bfree) * pool.Bsize,
	}
	if usage != nil { // quotas are off, but the agent counts usage
		bytes.Used = usage.UsedBytes
	}
	if pool.Files > 0 {
		return []*csi.VolumeUsage{bytes, {
			Unit: csi.VolumeUsage_INODES, Total: int64(pool.Files), Available: int64(pool.Ffree), Used: int64(pool.Files - pool.Ffree),
		}}
	}
	return append([]*csi.VolumeUsage{bytes}, inodeStats(usage)...)
}

// inodeStats returns the number of files if the agent knows it. btrfs has no limit for it.
func inodeStats(usage *agentapi.Usage) []*csi.VolumeUsage {
	if usage == nil || usage.Inodes == nil {
		return nil
	}
	return []*csi.VolumeUsage{{Unit: csi.VolumeUsage_INODES, Used: *usage.Inodes}}
}
