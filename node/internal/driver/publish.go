package driver

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
)

// publishRequest is a checked NodePublishVolumeRequest.
type publishRequest struct {
	volumeID string
	dir      string // staging directory of the volume
	target   string
	access   access
	attach   *publishContext // nil if the request has no publish context
}

// NodePublishVolume sets the mount group of the staged volume and binds the volume to target_path.
// It never binds a directory that is not a mount: the workload would write to the node's disk.
func (n *Node) NodePublishVolume(ctx context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	p, err := parsePublish(r)
	if err != nil {
		return nil, err
	}
	if err := n.publish(ctx, p); err != nil {
		return nil, n.retriable(ctx, p.target, err)
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

func (n *Node) publish(ctx context.Context, p publishRequest) error {
	if err := n.ensureStaged(ctx, p); err != nil {
		return mountError(err)
	}
	if err := n.requireSingleWriter(ctx, p); err != nil {
		return err
	}
	if err := n.setGroup(ctx, p); err != nil {
		return mountError(err)
	}
	return mountError(n.Mounts.Bind(ctx, p.dir, p.target, p.access.readOnly))
}

// setGroup gives the volume to the mount group. Like the kubelet, it leaves read-only volumes as
// they are.
func (n *Node) setGroup(ctx context.Context, p publishRequest) error {
	if p.access.group == nil {
		return nil
	}
	mounted, err := n.Mounts.Volume(ctx, p.dir)
	if err != nil {
		return err
	}
	if !p.access.readOnly && !mounted.ReadOnly {
		err := n.Mounts.SetGroup(ctx, p.dir, p.target, *p.access.group)
		if !errors.Is(err, unix.EROFS) { // the export, or the volume on the storage host, is read-only
			return err
		}
	}
	n.Logger.InfoContext(ctx, "skipped fsGroup of a read-only volume", "volume", p.volumeID, "group", *p.access.group)
	return nil
}

// NodeUnpublishVolume unmounts the volume from target_path and removes target_path.
func (n *Node) NodeUnpublishVolume(ctx context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if err := requireVolumeID(r.VolumeId); err != nil {
		return nil, err
	}
	if err := requirePath("target_path", r.TargetPath); err != nil {
		return nil, err
	}
	n.Mounts.EndGroup(ctx, filepath.Clean(r.TargetPath))
	if err := n.Mounts.Unbind(ctx, r.TargetPath); err != nil {
		return nil, mountError(err)
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

func parsePublish(r *csi.NodePublishVolumeRequest) (publishRequest, error) {
	if err := requireValidVolumeID(r.VolumeId); err != nil {
		return publishRequest{}, err
	}
	if err := requirePath("target_path", r.TargetPath); err != nil {
		return publishRequest{}, err
	}
	access, err := parseCapability(r.VolumeCapability)
	if err != nil {
		return publishRequest{}, err
	}
	if r.StagingTargetPath == "" { // CSI spec, "NodePublishVolume Errors"
		return publishRequest{}, status.Error(codes.FailedPrecondition, "staging_target_path must not be empty")
	}
	if err := requirePath("staging_target_path", r.StagingTargetPath); err != nil {
		return publishRequest{}, err
	}
	p := publishRequest{volumeID: r.VolumeId, dir: dataDir(r.StagingTargetPath), target: filepath.Clean(r.TargetPath), access: access}
	if p.target == p.dir || p.target == filepath.Clean(r.StagingTargetPath) {
		return publishRequest{}, invalid("target_path", "must not be the staging path")
	}
	if len(r.PublishContext) > 0 {
		a, err := parseContext(r.PublishContext, r.VolumeCapability)
		if err != nil {
			return publishRequest{}, err
		}
		p.attach = &a
		if a.published != nil {
			p.access.mode, p.access.readOnly = a.published.mode, a.published.readOnly
		}
	}
	p.access.readOnly = p.access.readOnly || r.Readonly
	return p, nil
}

// ensureStaged fails unless the volume is mounted at its staging path. It replaces a mount that has
// become stale because the export was revoked and granted again. The orchestrator considers the
// volume staged and would not stage it again.
func (n *Node) ensureStaged(ctx context.Context, p publishRequest) error {
	if _, err := n.Mounts.Volume(ctx, p.dir); err != nil {
		return err
	}
	err := n.Mounts.Check(ctx, p.dir)
	if errors.Is(err, nfsmount.ErrStale) && p.attach != nil {
		return n.mount(ctx, *p.attach, p.dir)
	}
	return err
}

// requireSingleWriter refuses a second target of a volume that only one workload may use.
func (n *Node) requireSingleWriter(ctx context.Context, p publishRequest) error {
	if p.access.mode != csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER {
		return nil
	}
	others, err := n.Mounts.Others(ctx, p.dir, p.target)
	switch {
	case err != nil:
		return mountError(err)
	case len(others) > 0:
		return status.Errorf(codes.FailedPrecondition, "the volume's access mode allows one workload, and the volume is already published at %s", others[0].Dir)
	}
	return nil
}
