package driver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/staged"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// NodeGetVolumeHealth checks a volume on this node: whether it is mounted where it should be,
// whether the server answers and knows it, and what its agent reports. It asks mounts and agent in
// parallel, each within its deadline. For a volume that could not be staged, it returns the reason.
// It returns NotFound if the driver has no record that the volume was on this node.
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

func (n *Node) volumeConditions(ctx context.Context, volume id.Volume, r *csi.NodeGetVolumeHealthRequest) (csiserver.Conditions, error) {
	var found csiserver.Conditions
	failure, failed := n.failures.byVolume().Get(r.VolumeId)
	var places []string
	if r.StagingTargetPath != "" {
		places = append(places, dataDir(r.StagingTargetPath))
	}
	if r.VolumePublishPath != "" {
		places = append(places, r.VolumePublishPath)
	}
	record, err := n.recordFor(ctx, volume, places...)
	switch {
	case err == nil:
	case failed:
		found.Add(inaccessible, failureReason(failure.(error)), "the volume could not be mounted: %v", failure)
		return found, nil
	default:
		return nil, err
	}

	usage := make(chan agentAnswer, 1)
	go func() {
		answer, err := n.agentUsage(ctx, volume, record)
		usage <- agentAnswer{answer, err}
	}()
	if r.StagingTargetPath == "" {
		places = slices.Insert(places, 0, record.Dir)
	}
	var stale []string
	for i, place := range places {
		writable := i == 0 && !record.ReadOnly // the record does not say whether a pod may write
		if n.mountConditions(ctx, &found, place, record.Source, writable) {
			stale = append(stale, place)
		}
	}
	if r.VolumePublishPath == "" && !found.Has(reasonServerSilent) {
		stale = append(stale, n.staleInPods(ctx, places[0], len(stale) > 0)...)
	}
	answer := <-usage
	agentConditions(&found, record, answer)
	staleCondition(&found, stale, answer)
	return found, nil
}

// staleInPods returns the other mount points at which the volume mounted at dir is stale. A pod
// keeps a stale mount when the one at dir was replaced for another pod. staleInPods checks mounts
// of one filesystem once.
func (n *Node) staleInPods(ctx context.Context, dir string, staleAtDir bool) []string {
	current, err := n.Mounts.Volume(ctx, dir)
	if err != nil {
		return nil // mountConditions reports it
	}
	others, err := n.Mounts.Others(ctx, dir, dir)
	if err != nil {
		n.Logger.WarnContext(ctx, "failed to list the mounts of a volume", "dir", dir, "reason", err)
		return nil
	}
	staleDevices := map[string]bool{current.Device: staleAtDir}
	var stale []string
	for _, other := range others {
		_, asked := staleDevices[other.Device]
		if !asked {
			staleDevices[other.Device] = reasonOf(n.Mounts.Check(ctx, other.Dir)) == reasonMountStale
		}
		if staleDevices[other.Device] {
			stale = append(stale, other.Dir)
		}
	}
	return stale
}

// staleCondition reports stale mounts of a node that is let in. The agent gives each attachment
// another file system ID. So a mount that was made before the volume was attached again stays
// stale. While the node is not let in, ExportMissing is the cause, and mounting again would not
// help.
func staleCondition(found *csiserver.Conditions, stale []string, answer agentAnswer) {
	if len(stale) == 0 || found.Has(reasonExportMissing) {
		return
	}
	places := strings.Join(stale, ", ")
	if answer.usage == nil { // the agent does not answer, or there is none
		found.Add(inaccessible, reasonMountStale, "stale mount at %s: the NFS server no longer knows the mounted directory; restart the pod to mount the volume again", places)
		return
	}
	found.Add(inaccessible, reasonMountStale, "stale mount at %s: the volume was detached from this node while it was mounted, and attached again, "+
		"or its data was replaced; the agent lets this node in, but the old mount stays stale: restart the pod to mount the volume again", places)
}

// mountConditions adds the problems of the mount at a place. A stale mount is only returned: its
// meaning depends on the agent's answer.
func (n *Node) mountConditions(ctx context.Context, found *csiserver.Conditions, place, source string, writable bool) (stale bool) {
	point, err := n.Mounts.Volume(ctx, place)
	switch {
	case err != nil:
		found.Add(inaccessible, reasonOf(err), "%v", err)
		return false
	case point.Source != source:
		found.Add(inaccessible, reasonMountForeign, "%s is mounted at %s in place of %s", point.Source, place, source)
		return false
	}
	err = n.Mounts.Check(ctx, place)
	switch {
	case reasonOf(err) == reasonMountStale:
		return true
	case err != nil:
		found.Add(inaccessible, reasonOf(err), "%v", err)
		return false
	}
	if writable && point.ReadOnly {
		found.Add(degraded, reasonMountReadOnly, "%s was mounted writable and is read-only now", place)
	}
	return false
}

type agentAnswer struct {
	usage *agentapi.Usage
	err   error
}

func agentConditions(found *csiserver.Conditions, record staged.Record, answer agentAnswer) {
	usage, err := answer.usage, answer.err
	switch {
	case record.AgentURL == "" || record.UsageToken == "":
		return // the volume has no agent
	case agentapi.IsCode(err, agentapi.Forbidden), agentapi.IsCode(err, agentapi.NotFound):
		found.Add(inaccessible, reasonExportMissing, "the agent at %s no longer lets this node use the volume: %v", record.AgentURL, err)
		return
	case err != nil:
		found.Add(degraded, reasonAgentSilent, "the agent at %s does not report the usage of the volume: %v", record.AgentURL, err)
		return
	}
	if isFull(usage) {
		found.Add(degraded, reasonVolumeFull, "%d of %d bytes are used: writes fail", usage.UsedBytes, usage.QuotaBytes)
	}
	for _, c := range usage.Health.Conditions {
		if c.Reason == agentapi.ReasonVolumeNearlyFull && found.Has(reasonVolumeFull) {
			continue // the agent's condition reports it
		}
		found.AddFromAgent(c)
	}
}

// fullWithin is the distance to the limit at which a volume counts as full, in bytes and as a part
// of the limit. btrfs reserves space for data and metadata before a write, so that usage never
// reaches the limit.
const (
	fullWithinBytes = 4 << 20
	fullWithinPart  = 100
)

func isFull(u *agentapi.Usage) bool {
	return u.QuotaBytes > 0 && u.QuotaBytes-u.UsedBytes <= min(fullWithinBytes, u.QuotaBytes/fullWithinPart)
}

// failureReason returns the reason why a volume could not be mounted.
func failureReason(err error) string {
	switch reason := reasonOf(err); {
	case errors.Is(err, context.DeadlineExceeded):
		return reasonServerSilent // no other step takes that long
	case reason == reasonMountBroken, reason == reasonMountMissing:
		return reasonMountFailed
	default:
		return reason
	}
}
