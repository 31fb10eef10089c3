package driver

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/staged"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// NodeGetVolumeHealth looks at a volume as this node has it: whether it is mounted where it should be, the server answers and
// knows it, and what the agent says of it. Mounts and agent are asked side by side, each within its own deadline. Of a volume that could
// not be staged it tells why. NotFound where the volume never was on this node, as far as it remembers.
func (n *Node) NodeGetVolumeHealth(ctx context.Context, r *csi.NodeGetVolumeHealthRequest) (*csi.NodeGetVolumeHealthResponse, error) {
	if err := requireVolumeID(r.VolumeId); err != nil {
		return nil, err
	}
	for field, path := range map[string]string{"volume_publish_path": r.VolumePublishPath, "staging_target_path": r.StagingTargetPath} {
		if path == "" {
			continue
		}
		if err := requirePath(field, path); err != nil {
			return nil, err
		}
	}
	volume, err := id.ParseVolume(r.VolumeId)
	if err != nil {
		return nil, notFound(fmt.Errorf("volume_id %w", err))
	}
	found, err := n.volumeConditions(ctx, volume, r)
	if err != nil {
		return nil, err
	}
	return &csi.NodeGetVolumeHealthResponse{VolumeHealth: &csi.VolumeHealth{VolumeId: r.VolumeId, HealthStatuses: found}}, nil
}

func (n *Node) volumeConditions(ctx context.Context, volume id.Volume, r *csi.NodeGetVolumeHealthRequest) (conditions, error) {
	var found conditions
	failure := n.failures.of(r.VolumeId)
	record, err := n.recordFor(ctx, volume, r)
	switch {
	case err == nil:
	case failure != nil:
		found.add(inaccessible, failureReason(failure), "the volume could not be mounted: %v", failure)
		return found, nil
	default:
		return nil, err
	}

	usage := make(chan agentAnswer, 1)
	go func() {
		answer, err := n.agentUsage(ctx, volume, record)
		usage <- agentAnswer{answer, err}
	}()
	places := []string{record.Dir}
	if r.StagingTargetPath != "" {
		places[0] = dataDir(r.StagingTargetPath)
	}
	if r.VolumePublishPath != "" {
		places = append(places, r.VolumePublishPath)
	}
	for i, place := range places {
		writable := i == 0 && !record.ReadOnly // whether a pod was to write is not known here
		n.mountConditions(ctx, &found, place, record.Source, writable)
	}
	agentConditions(&found, record, <-usage)
	return found, nil
}

// recordFor is what is kept of the volume or, where that is lost, what its mount tells.
func (n *Node) recordFor(ctx context.Context, volume id.Volume, r *csi.NodeGetVolumeHealthRequest) (staged.Record, error) {
	record, err := n.Store.Load(r.VolumeId)
	if err == nil {
		return record, nil
	}
	if !errors.Is(err, staged.ErrNotFound) {
		n.Logger.WarnContext(ctx, "what was kept of the volume is lost", "volume", r.VolumeId, "reason", err)
	}
	for _, path := range []string{r.StagingTargetPath, r.VolumePublishPath} {
		if path == "" {
			continue
		}
		if path == r.StagingTargetPath {
			path = dataDir(path)
		}
		if point, mountErr := n.Mounts.Volume(ctx, path); mountErr == nil && isVolumeAt(volume, point) {
			return staged.Record{VolumeID: r.VolumeId, Source: point.Source, Dir: path, ReadOnly: point.ReadOnly}, nil
		}
	}
	return staged.Record{}, notFound(err)
}

// isVolumeAt goes by the name of the volume in the mounted directory ({volume}/data).
func isVolumeAt(volume id.Volume, point nfsmount.Point) bool {
	return strings.HasSuffix(point.Source, "/"+volume.Name+"/"+agentapi.DataDir)
}

func (n *Node) mountConditions(ctx context.Context, found *conditions, place, source string, writable bool) {
	point, err := n.Mounts.Volume(ctx, place)
	switch {
	case err != nil:
		found.add(inaccessible, reasonOf(err), "%v", err)
		return
	case point.Source != source:
		found.add(inaccessible, reasonMountForeign, "%s is mounted at %s in place of %s", point.Source, place, source)
		return
	}
	if err := n.Mounts.Check(ctx, place); err != nil {
		found.add(inaccessible, reasonOf(err), "%v", err)
		return
	}
	if writable && point.ReadOnly {
		found.add(degraded, reasonMountReadOnly, "%s was mounted writable and is read-only now", place)
	}
}

type agentAnswer struct {
	usage *agentapi.Usage
	err   error
}

func agentConditions(found *conditions, record staged.Record, answer agentAnswer) {
	usage, err := answer.usage, answer.err
	switch {
	case record.AgentURL == "" || record.UsageToken == "":
		return // there is nobody to ask
	case agentapi.IsCode(err, agentapi.Forbidden), agentapi.IsCode(err, agentapi.NotFound):
		found.add(inaccessible, reasonExportMissing, "the agent at %s does not let this node have the volume any more: %v", record.AgentURL, err)
		return
	case err != nil:
		found.add(degraded, reasonAgentSilent, "the agent at %s does not tell of the volume: %v", record.AgentURL, err)
		return
	}
	if isFull(usage) {
		found.add(degraded, reasonVolumeFull, "%d of %d bytes are used: writing fails", usage.UsedBytes, usage.QuotaBytes)
	}
	for _, c := range usage.Health.Conditions {
		if c.Reason == agentVolumeNearlyFull && found.has(reasonVolumeFull) {
			continue
		}
		status, weighs := agentStatus[c.Reason]
		if !weighs {
			status = degraded
		}
		found.add(status, c.Reason, "%s", c.Message)
	}
}

// fullWithin is how near to its limit a volume counts as full, in bytes and as a part of the limit: btrfs reserves room for a
// write and its metadata before it makes it, so that usage never reaches the limit itself.
const (
	fullWithinBytes = 4 << 20
	fullWithinPart  = 100
)

func isFull(u *agentapi.Usage) bool {
	return u.QuotaBytes > 0 && u.QuotaBytes-u.UsedBytes <= min(fullWithinBytes, u.QuotaBytes/fullWithinPart)
}

// failureReason names why a volume could not be mounted.
func failureReason(err error) string {
	switch reason := reasonOf(err); {
	case errors.Is(err, context.DeadlineExceeded):
		return reasonServerSilent // what else takes that long
	case reason == reasonMountBroken, reason == reasonMountMissing:
		return reasonMountFailed
	default:
		return reason
	}
}
