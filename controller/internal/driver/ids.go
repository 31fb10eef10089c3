package driver

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/agents"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

const maxNameLen = 128 // bytes of a volume's or snapshot's name (CSI spec, "Size Limits")

func checkName(name string) error {
	switch {
	case name == "":
		return invalidf("name must not be empty")
	case len(name) > maxNameLen:
		return invalidf("name must be at most %d bytes long, got %d", maxNameLen, len(name))
	}
	return nil
}

// existingVolume parses the ID of a volume that has to exist. This driver never issued an ID that
// does not parse.
func existingVolume(volumeID string) (id.Volume, error) {
	if volumeID == "" {
		return id.Volume{}, invalidf("volume_id must not be empty")
	}
	v, err := id.ParseVolume(volumeID)
	if err != nil {
		return id.Volume{}, status.Errorf(codes.NotFound, "volume: %v", err)
	}
	return v, nil
}

// existingSnapshot is existingVolume for snapshots.
func existingSnapshot(snapshotID string) (id.Volume, error) {
	if snapshotID == "" {
		return id.Volume{}, invalidf("snapshot_id must not be empty")
	}
	v, err := id.ParseVolume(snapshotID)
	if err != nil {
		return id.Volume{}, status.Errorf(codes.NotFound, "snapshot: %v", err)
	}
	return v, nil
}

// parse serves calls that answer for IDs of other drivers.
func parse(volumeOrSnapshotID string) (v id.Volume, ours bool) {
	v, err := id.ParseVolume(volumeOrSnapshotID)
	return v, err == nil
}

// volume reads a volume from its agent.
func (c *controller) volume(ctx context.Context, v id.Volume, secrets map[string]string) (*agents.Target, *agentapi.VolumeDetail, error) {
	target, err := c.target(ctx, v, secrets)
	if err != nil {
		return nil, nil, err
	}
	volume, err := target.GetVolume(ctx, v.Name)
	return target, volume, err
}
