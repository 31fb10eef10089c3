package driver

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
)

// OneAtATime locks the volume of each call that changes it. Calls that only read take no lock.
func OneAtATime(next csi.NodeServer) csi.NodeServer { return &oneAtATime{NodeServer: next} }

type oneAtATime struct {
	csi.NodeServer
	locks csiserver.Locks
}

func (o *oneAtATime) NodeStageVolume(ctx context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	return csiserver.Locked(ctx, &o.locks, volumeKey(r.GetVolumeId()), r, o.NodeServer.NodeStageVolume)
}

func (o *oneAtATime) NodeUnstageVolume(ctx context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	return csiserver.Locked(ctx, &o.locks, volumeKey(r.GetVolumeId()), r, o.NodeServer.NodeUnstageVolume)
}

func (o *oneAtATime) NodePublishVolume(ctx context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	return csiserver.Locked(ctx, &o.locks, volumeKey(r.GetVolumeId()), r, o.NodeServer.NodePublishVolume)
}

func (o *oneAtATime) NodeUnpublishVolume(ctx context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	return csiserver.Locked(ctx, &o.locks, volumeKey(r.GetVolumeId()), r, o.NodeServer.NodeUnpublishVolume)
}

func volumeKey(volumeID string) csiserver.Keys { return csiserver.Keys{"volume/" + volumeID: true} }
