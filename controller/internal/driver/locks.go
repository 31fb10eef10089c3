package driver

import (
	"context"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
)

// exclusive locks the volume or snapshot of each call that changes it. Calls that only read take no
// lock. Calls for different nodes of a multi-node volume do not exclude each other.
type exclusive struct {
	csi.ControllerServer
	locks csiserver.Locks
}

func (e *exclusive) CreateVolume(ctx context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	return csiserver.Locked(ctx, &e.locks, volumeKey(r.GetName()), r, e.ControllerServer.CreateVolume)
}

func (e *exclusive) DeleteVolume(ctx context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	return csiserver.Locked(ctx, &e.locks, volumeKey(r.GetVolumeId()), r, e.ControllerServer.DeleteVolume)
}

func (e *exclusive) ControllerExpandVolume(ctx context.Context, r *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	return csiserver.Locked(ctx, &e.locks, volumeKey(r.GetVolumeId()), r, e.ControllerServer.ControllerExpandVolume)
}

func (e *exclusive) ControllerModifyVolume(ctx context.Context, r *csi.ControllerModifyVolumeRequest) (*csi.ControllerModifyVolumeResponse, error) {
	return csiserver.Locked(ctx, &e.locks, volumeKey(r.GetVolumeId()), r, e.ControllerServer.ControllerModifyVolume)
}

func (e *exclusive) ControllerPublishVolume(ctx context.Context, r *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	p := publishRequest{mode: r.GetVolumeCapability().GetAccessMode().GetMode()}
	return csiserver.Locked(ctx, &e.locks, nodeKeys(r.GetVolumeId(), r.GetNodeId(), p.oneAtATime()), r, e.ControllerServer.ControllerPublishVolume)
}

func (e *exclusive) ControllerUnpublishVolume(ctx context.Context, r *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	return csiserver.Locked(ctx, &e.locks, nodeKeys(r.GetVolumeId(), r.GetNodeId(), r.GetNodeId() == ""), r, e.ControllerServer.ControllerUnpublishVolume)
}

func (e *exclusive) CreateSnapshot(ctx context.Context, r *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	return csiserver.Locked(ctx, &e.locks, snapshotKey(r.GetName()), r, e.ControllerServer.CreateSnapshot)
}

func (e *exclusive) DeleteSnapshot(ctx context.Context, r *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	return csiserver.Locked(ctx, &e.locks, snapshotKey(r.GetSnapshotId()), r, e.ControllerServer.DeleteSnapshot)
}

// volumeKey takes a name or an ID. CreateVolume knows only the name, and must exclude a
// DeleteVolume of the same volume.
func volumeKey(nameOrID string) csiserver.Keys {
	return csiserver.Keys{"volume/" + nameOf(nameOrID): true}
}

func snapshotKey(nameOrID string) csiserver.Keys {
	return csiserver.Keys{"snapshot/" + nameOf(nameOrID): true}
}

// nodeKeys returns the keys of a volume at one node. alone also excludes the volume's other nodes.
func nodeKeys(volumeID, nodeID string, alone bool) csiserver.Keys {
	volume := "volume/" + nameOf(volumeID)
	node, _, _ := strings.Cut(nodeID, "|")
	return csiserver.Keys{volume: alone, volume + "@" + node: true}
}

func nameOf(nameOrID string) string {
	if _, name, found := strings.Cut(nameOrID, "|"); found {
		return name
	}
	return nameOrID
}
