package driver

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/agents"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/class"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// CreateSnapshot creates a snapshot, which is ready at once. It is idempotent by name. The name of
// another volume's snapshot is AlreadyExists.
func (c *controller) CreateSnapshot(ctx context.Context, r *csi.CreateSnapshotRequest) (_ *csi.CreateSnapshotResponse, err error) {
	defer notFinal(&err)
	if err := checkName(r.GetName()); err != nil {
		return nil, err
	}
	if r.GetSourceVolumeId() == "" {
		return nil, invalidf("source_volume_id must not be empty")
	}
	if err := checkSnapshotParameters(r.GetParameters()); err != nil {
		return nil, err
	}
	source, err := existingVolume(r.GetSourceVolumeId())
	if err != nil {
		return nil, err
	}
	target, err := c.target(ctx, source, r.GetSecrets())
	if err != nil {
		return nil, err
	}
	name := id.AgentName(source.Class, r.GetName())
	snapshot, err := target.CreateSnapshot(ctx, agentapi.SnapshotCreate{Volume: source.Name, Name: name, Labels: c.labels(source.Class)})
	switch {
	case agentapi.IsCode(err, agentapi.AlreadyExists):
		snapshot, err = existingOf(ctx, target, name, err)
		if err == nil && snapshot.Volume == source.Name {
			err = ofThisVolume(ctx, target, snapshot)
		}
	case agentapi.IsCode(err, agentapi.NotFound):
		// The volume may have been deleted after an earlier call created the snapshot.
		before, errBefore := target.GetSnapshot(ctx, name)
		if !agentapi.IsCode(errBefore, agentapi.NotFound) {
			snapshot, err = before, errBefore
		}
	}
	if err != nil {
		return nil, err
	}
	if snapshot.Volume != source.Name || snapshotClass(snapshot, source.Class) != source.Class {
		return nil, status.Errorf(codes.AlreadyExists, "snapshot %s exists, and it is of volume %s", name, snapshot.Volume)
	}
	return &csi.CreateSnapshotResponse{Snapshot: snapshotOf(snapshot, source.Class)}, nil
}

func existingOf(ctx context.Context, target *agents.Target, name string, conflict error) (*agentapi.SnapshotDetail, error) {
	snapshot, err := target.GetSnapshot(ctx, name)
	if agentapi.IsCode(err, agentapi.NotFound) {
		return nil, status.Errorf(codes.Aborted, "another snapshot %s was deleted meanwhile: %v", name, conflict)
	}
	return snapshot, err
}

// ofThisVolume returns AlreadyExists for a snapshot of a deleted volume whose name a new volume has
// now.
func ofThisVolume(ctx context.Context, target *agents.Target, snapshot *agentapi.SnapshotDetail) error {
	volume, err := target.GetVolume(ctx, snapshot.Volume)
	switch {
	case agentapi.IsCode(err, agentapi.NotFound):
		return nil
	case err != nil:
		return err
	case volume.Id != "" && volume.Id != snapshot.VolumeId: // an older agent has no IDs
		return status.Errorf(codes.AlreadyExists, "snapshot %s exists, and it is of a deleted volume that was also called %s",
			snapshot.Name, snapshot.Volume)
	}
	return nil
}

// checkSnapshotParameters refuses all parameters except those for the sidecar: a
// VolumeSnapshotClass has none of this driver.
func checkSnapshotParameters(parameters map[string]string) error {
	if key, found := firstUnknown(parameters); found {
		return invalidf("parameter %q is not known; snapshots take no parameters but those of the sidecar (%s…)", key, class.ProvisionerPrefix)
	}
	return nil
}

// GetSnapshot reads one snapshot.
func (c *controller) GetSnapshot(ctx context.Context, r *csi.GetSnapshotRequest) (*csi.GetSnapshotResponse, error) {
	v, err := existingSnapshot(r.GetSnapshotId())
	if err != nil {
		return nil, err
	}
	target, err := c.target(ctx, v, r.GetSecrets())
	if err != nil {
		return nil, err
	}
	snapshot, err := target.GetSnapshot(ctx, v.Name)
	if err != nil {
		return nil, err
	}
	return &csi.GetSnapshotResponse{Snapshot: snapshotOf(snapshot, v.Class)}, nil
}

// snapshotOf translates a snapshot to CSI, with the IDs of a class.
func snapshotOf(s *agentapi.SnapshotDetail, classKey string) *csi.Snapshot {
	return &csi.Snapshot{
		SnapshotId:     id.NewVolume(classKey, s.Name).String(),
		SourceVolumeId: id.NewVolume(snapshotClass(s, classKey), s.Volume).String(),
		SizeBytes:      snapshotSize(s),
		CreationTime:   timestamppb.New(s.CreatedAt),
		ReadyToUse:     true,
	}
}

// snapshotClass returns the class of a snapshot, which is that of its volume.
func snapshotClass(s *agentapi.SnapshotDetail, otherwise string) string {
	if key := s.Labels[class.LabelClass]; key != "" {
		return key
	}
	return otherwise
}

// snapshotSize returns the minimum size in bytes of a volume that is created from the snapshot. It
// is never 0, which would mean "unknown".
func snapshotSize(s *agentapi.SnapshotDetail) int64 {
	return sourceSize(s.QuotaBytes, s.SizeBytes, s.UsedBytes)
}
