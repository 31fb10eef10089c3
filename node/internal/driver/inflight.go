package driver

import (
	"context"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// OneAtATime lets one change of a volume through at a time and answers ABORTED to others (CSI spec, "Error Scheme":
// operation pending for volume). Calls that change nothing pass.
func OneAtATime(next csi.NodeServer) csi.NodeServer {
	return &oneAtATime{NodeServer: next, busy: map[string]struct{}{}}
}

type oneAtATime struct {
	csi.NodeServer

	mu   sync.Mutex
	busy map[string]struct{} // volume IDs
}

func (o *oneAtATime) NodeStageVolume(ctx context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	return exclusive(ctx, o, r, o.NodeServer.NodeStageVolume)
}

func (o *oneAtATime) NodeUnstageVolume(ctx context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	return exclusive(ctx, o, r, o.NodeServer.NodeUnstageVolume)
}

func (o *oneAtATime) NodePublishVolume(ctx context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	return exclusive(ctx, o, r, o.NodeServer.NodePublishVolume)
}

func (o *oneAtATime) NodeUnpublishVolume(ctx context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	return exclusive(ctx, o, r, o.NodeServer.NodeUnpublishVolume)
}

func exclusive[Q interface{ GetVolumeId() string }, A any](ctx context.Context, o *oneAtATime, request Q, call func(context.Context, Q) (*A, error)) (*A, error) {
	volume := request.GetVolumeId()
	if !o.enter(volume) {
		return nil, status.Errorf(codes.Aborted, "another operation on volume %q is under way", volume)
	}
	defer o.leave(volume)
	return call(ctx, request)
}

func (o *oneAtATime) enter(volume string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, taken := o.busy[volume]; taken {
		return false
	}
	o.busy[volume] = struct{}{}
	return true
}

func (o *oneAtATime) leave(volume string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.busy, volume)
}
