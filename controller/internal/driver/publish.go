package driver

import (
	"context"
	"strconv"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/agents"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// ControllerPublishVolume lets a node's address mount the volume.
func (c *controller) ControllerPublishVolume(ctx context.Context, r *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	v, err := checkPublish(r)
	if err != nil {
		return nil, err
	}
	target, volume, err := c.volume(ctx, v, r.GetSecrets())
	if err != nil {
		return nil, err
	}
	node, err := c.node(ctx, r.GetNodeId())
	if err != nil {
		return nil, err
	}
	request := publishRequest{node: node, mode: r.GetVolumeCapability().GetAccessMode().GetMode(), readOnly: r.GetReadonly()}
	if err := mountingOf(target.Parameters, volume).check(r.GetVolumeCapability()); err != nil {
		return nil, invalidf("%v", err)
	}
	if err := request.conflict(volume); err != nil {
		return nil, err
	}
	if err := request.moveAway(ctx, target, volume); err != nil {
		return nil, err
	}
	export, err := target.Export(ctx, v.Name, agentapi.ExportRequest{Client: node.IP.String(), ReadOnly: request.onlyReads(), Labels: c.referenceLabels(request)})
	if err != nil {
		return nil, err
	}
	if err := request.confirm(ctx, target, volume); err != nil {
		return nil, err
	}
	return &csi.ControllerPublishVolumeResponse{PublishContext: publishContext(target, volume, export, request)}, nil
}

func checkPublish(r *csi.ControllerPublishVolumeRequest) (id.Volume, error) {
	switch {
	case r.GetVolumeId() == "":
		return id.Volume{}, invalidf("volume_id must not be empty")
	case r.GetNodeId() == "":
		return id.Volume{}, invalidf("node_id must not be empty")
	case r.GetVolumeCapability() == nil:
		return id.Volume{}, invalidf("volume_capability must not be empty")
	}
	if err := csiserver.CheckCapability(r.GetVolumeCapability()); err != nil {
		return id.Volume{}, invalidf("volume_capability: %v", err)
	}
	return existingVolume(r.GetVolumeId())
}

// node parses the ID of a node that has to exist.
func (c *controller) node(ctx context.Context, nodeID string) (id.Node, error) {
	node, err := id.ParseNode(nodeID)
	if err != nil {
		return id.Node{}, status.Errorf(codes.NotFound, "node: %v", err)
	}
	known, err := c.agents.NodeKnown(ctx, node)
	if err == nil && !known {
		err = status.Errorf(codes.NotFound, "node %s does not exist", node.Name)
	}
	return node, err
}

// confirm reads the volume again after it was published for one node or one writer. Another replica
// of the controller may have published it to another node between the check and the export. Both
// replicas then revoke the references that they added, and one of the retries succeeds. References
// that the node had before stay: they may be in use, and the other node came too late.
func (p publishRequest) confirm(ctx context.Context, target *agents.Target, before *agentapi.VolumeDetail) error {
	if !p.oneAtATime() {
		return nil
	}
	now, err := target.GetVolume(ctx, before.Name)
	if err != nil {
		return err
	}
	conflict := p.conflict(now)
	if conflict == nil {
		return nil
	}
	if !p.present(before) {
		if err := target.Unexport(ctx, before.Name, p.reference()); err != nil {
			return err
		}
	}
	return status.Errorf(codes.Aborted, "published elsewhere at the same time: %s", status.Convert(conflict).Message())
}

func publishContext(target *agents.Target, volume *agentapi.VolumeDetail, export *agentapi.Export, p publishRequest) map[string]string {
	return map[string]string{
		csiserver.ContextServer:       target.Parameters.Server(),
		csiserver.ContextPath:         export.MountPath,
		csiserver.ContextMountOptions: strings.Join(mountingOf(target.Parameters, volume).forMode(export.MountOptions, p.mode), ","),
		csiserver.ContextAgentURL:     target.URL(),
		csiserver.ContextAccessMode:   p.mode.String(),
		csiserver.ContextReadOnly:     strconv.FormatBool(p.onlyReads()),
		csiserver.ContextUsageToken:   export.UsageToken,
	}
}
