package driver

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/agents"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
)

// ListVolumes lists the volumes of all classes and the nodes that they are published to. The call
// fails if one agent is unreachable: a list without its volumes would mean that they are deleted.
func (c *controller) ListVolumes(ctx context.Context, r *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	if err := checkMaxEntries(r.GetMaxEntries()); err != nil {
		return nil, err
	}
	targets, err := c.agents.All(ctx, nil)
	if err != nil {
		return nil, withCode(err)
	}
	out := &csi.ListVolumesResponse{}
	count := func() int { return len(out.Entries) }
	out.NextToken, err = walk(ctx, targets, r.GetStartingToken(), int(r.GetMaxEntries()), out, count,
		func(ctx context.Context, target *agents.Target, page agentclient.Page) (string, error) {
			list, err := target.ListVolumes(ctx, page)
			if err != nil {
				return "", err
			}
			for i := range list.Volumes {
				volume := &list.Volumes[i]
				out.Entries = append(out.Entries, &csi.ListVolumesResponse_Entry{
					Volume: volumeOf(target, volume, c.volumeClass(ctx, target, volume)),
					Status: &csi.ListVolumesResponse_VolumeStatus{PublishedNodeIds: publishedNodes(volume)},
				})
			}
			return list.Next, nil
		})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// ListSnapshots lists the snapshots of all classes, of one volume, or the one with an ID. An
// unknown ID gives an empty list.
func (c *controller) ListSnapshots(ctx context.Context, r *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	if err := checkMaxEntries(r.GetMaxEntries()); err != nil {
		return nil, err
	}
	switch {
	case r.GetSnapshotId() != "":
		return c.oneSnapshot(ctx, r)
	case r.GetSourceVolumeId() != "":
		return c.snapshotsOfVolume(ctx, r)
	}
	targets, err := c.agents.All(ctx, r.GetSecrets())
	if err != nil {
		return nil, withCode(err)
	}
	return c.snapshots(ctx, r, targets, "")
}

func (c *controller) oneSnapshot(ctx context.Context, r *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	out := &csi.ListSnapshotsResponse{}
	v, ours := parse(r.GetSnapshotId())
	if !ours {
		return out, nil
	}
	target, err := c.target(ctx, v, r.GetSecrets())
	if err != nil {
		return nil, err
	}
	snapshot, err := target.GetSnapshot(ctx, v.Name)
	if agentapi.IsCode(err, agentapi.NotFound) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	entry := snapshotOf(snapshot, v.Class)
	source := r.GetSourceVolumeId()
	if source != "" && source != entry.SourceVolumeId {
		return out, nil
	}
	if source != "" {
		err := ofThisVolume(ctx, target, snapshot)
		if status.Code(err) == codes.AlreadyExists {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
	}
	out.Entries = []*csi.ListSnapshotsResponse_Entry{{Snapshot: entry}}
	return out, nil
}

func (c *controller) snapshotsOfVolume(ctx context.Context, r *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	v, ours := parse(r.GetSourceVolumeId())
	if !ours {
		return &csi.ListSnapshotsResponse{}, nil
	}
	target, err := c.target(ctx, v, r.GetSecrets())
	if err != nil {
		return nil, err
	}
	out, err := c.snapshots(ctx, r, []*agents.Target{target}, v.Name)
	if agentapi.IsCode(err, agentapi.NotFound) {
		return &csi.ListSnapshotsResponse{}, nil
	}
	return out, err
}

func (c *controller) snapshots(ctx context.Context, r *csi.ListSnapshotsRequest, targets []*agents.Target, volume string) (*csi.ListSnapshotsResponse, error) {
	out := &csi.ListSnapshotsResponse{}
	count := func() int { return len(out.Entries) }
	var err error
	out.NextToken, err = walk(ctx, targets, r.GetStartingToken(), int(r.GetMaxEntries()), out, count,
		func(ctx context.Context, target *agents.Target, page agentclient.Page) (string, error) {
			list, err := target.ListSnapshots(ctx, volume, page)
			if err != nil {
				return "", err
			}
			for i := range list.Snapshots {
				snapshot := &list.Snapshots[i]
				out.Entries = append(out.Entries, &csi.ListSnapshotsResponse_Entry{
					Snapshot: snapshotOf(snapshot, snapshotClass(snapshot, target.Class)),
				})
			}
			return list.Next, nil
		})
	if err != nil {
		return nil, err
	}
	return out, nil
}
