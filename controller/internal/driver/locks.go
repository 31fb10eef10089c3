package driver

import (
	"context"
	"strings"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// exclusive answers Aborted to a call for a volume or snapshot that has another call under way (CSI spec, "Error Scheme":
// the caller should retry with back-off). Calls that only read pass, and so do those for different nodes of one volume that
// many nodes may have.
type exclusive struct {
	csi.ControllerServer
	locks *locks
}

func (e *exclusive) CreateVolume(ctx context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	release, err := e.locks.whole(volumeKey(r.GetName()))
	if err != nil {
		return nil, err
	}
	defer release()
	return e.ControllerServer.CreateVolume(ctx, r)
}

func (e *exclusive) DeleteVolume(ctx context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	release, err := e.locks.whole(volumeKey(r.GetVolumeId()))
	if err != nil {
		return nil, err
	}
	defer release()
	return e.ControllerServer.DeleteVolume(ctx, r)
}

func (e *exclusive) ControllerExpandVolume(ctx context.Context, r *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	release, err := e.locks.whole(volumeKey(r.GetVolumeId()))
	if err != nil {
		return nil, err
	}
	defer release()
	return e.ControllerServer.ControllerExpandVolume(ctx, r)
}

func (e *exclusive) ControllerModifyVolume(ctx context.Context, r *csi.ControllerModifyVolumeRequest) (*csi.ControllerModifyVolumeResponse, error) {
	release, err := e.locks.whole(volumeKey(r.GetVolumeId()))
	if err != nil {
		return nil, err
	}
	defer release()
	return e.ControllerServer.ControllerModifyVolume(ctx, r)
}

func (e *exclusive) ControllerPublishVolume(ctx context.Context, r *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	p := publication{mode: r.GetVolumeCapability().GetAccessMode().GetMode()}
	release, err := e.locks.node(volumeKey(r.GetVolumeId()), r.GetNodeId(), p.oneAtATime())
	if err != nil {
		return nil, err
	}
	defer release()
	return e.ControllerServer.ControllerPublishVolume(ctx, r)
}

func (e *exclusive) ControllerUnpublishVolume(ctx context.Context, r *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	release, err := e.locks.node(volumeKey(r.GetVolumeId()), r.GetNodeId(), r.GetNodeId() == "")
	if err != nil {
		return nil, err
	}
	defer release()
	return e.ControllerServer.ControllerUnpublishVolume(ctx, r)
}

func (e *exclusive) CreateSnapshot(ctx context.Context, r *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	release, err := e.locks.whole(snapshotKey(r.GetName()))
	if err != nil {
		return nil, err
	}
	defer release()
	return e.ControllerServer.CreateSnapshot(ctx, r)
}

func (e *exclusive) DeleteSnapshot(ctx context.Context, r *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	release, err := e.locks.whole(snapshotKey(r.GetSnapshotId()))
	if err != nil {
		return nil, err
	}
	defer release()
	return e.ControllerServer.DeleteSnapshot(ctx, r)
}

// volumeKey takes a name or an ID: CreateVolume knows only the name, and must exclude a DeleteVolume of the same.
func volumeKey(nameOrID string) string   { return "volume/" + nameOf(nameOrID) }
func snapshotKey(nameOrID string) string { return "snapshot/" + nameOf(nameOrID) }

func nameOf(nameOrID string) string {
	if _, name, found := strings.Cut(nameOrID, "|"); found {
		return name
	}
	return nameOrID
}

// locks are taken without waiting. A key is held by one, or shared by many.
type locks struct {
	mu   sync.Mutex
	held map[string]int // how many share it; -1 for one alone
}

func newLocks() *locks { return &locks{held: map[string]int{}} }

// whole takes a volume or snapshot alone.
func (l *locks) whole(key string) (release func(), err error) {
	return l.take(map[string]bool{key: true})
}

// node takes a volume at one node. alone excludes the volume's other nodes as well.
func (l *locks) node(key, nodeID string, alone bool) (release func(), err error) {
	name, _, _ := strings.Cut(nodeID, "|")
	return l.take(map[string]bool{key: alone, key + "@" + name: true})
}

// take takes all keys or none; the value says whether alone.
func (l *locks) take(keys map[string]bool) (release func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, alone := range keys {
		if held := l.held[key]; held < 0 || alone && held > 0 {
			return nil, status.Errorf(codes.Aborted, "another call for %s is under way", key)
		}
	}
	for key, alone := range keys {
		if alone {
			l.held[key] = -1
		} else {
			l.held[key]++
		}
	}
	return func() { l.release(keys) }, nil
}

func (l *locks) release(keys map[string]bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, alone := range keys {
		if !alone {
			l.held[key]--
		}
		if alone || l.held[key] == 0 {
			delete(l.held, key)
		}
	}
}
