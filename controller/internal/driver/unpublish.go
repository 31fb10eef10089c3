package driver

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/agents"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// ControllerUnpublishVolume revokes a node's access. When it returns, the node can no longer read
// or write. It matches the node's name, so that it finds a node whose address is no longer the one
// in its ID. Without a node ID, it revokes the access of all nodes.
func (c *controller) ControllerUnpublishVolume(ctx context.Context, r *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	if r.GetVolumeId() == "" {
		return nil, invalidf("volume_id must not be empty")
	}
	v, err := id.ParseVolume(r.GetVolumeId())
	if err != nil {
		c.logger.Info("nothing to unpublish: the volume ID is not of this driver", "volume", r.GetVolumeId(), "reason", err)
		return &csi.ControllerUnpublishVolumeResponse{}, nil
	}
	target, err := c.target(ctx, v, r.GetSecrets())
	if err != nil {
		return nil, err
	}
	volume, err := target.GetVolume(ctx, v.Name)
	if agentapi.IsCode(err, agentapi.NotFound) {
		volume, err = &agentapi.VolumeDetail{Name: v.Name}, nil
	}
	if err != nil {
		return nil, err
	}
	fenced := false
	for _, reference := range volume.Clients {
		labels, ok := labelsOfNode(reference, r.GetNodeId())
		if !ok {
			continue
		}
		if err := target.Unexport(ctx, v.Name, agentapi.UnexportRequest{Client: reference.Client, Labels: labels}); err != nil {
			return nil, err
		}
		fenced = true
	}
	if !fenced || isQuarantined(volume) {
		err = shutOut(ctx, target, volume, r.GetNodeId())
	}
	return &csi.ControllerUnpublishVolumeResponse{}, err
}

// shutOut asks the agent to fence the node from a volume that has no reference of it, so that every
// unpublish ends with the agent's fence. The NFS server may still let the node in if the volume is
// quarantined and its references cannot be read, if its directory was moved away, or if an earlier
// call failed half-way. The agent refuses if it cannot tell. A node ID without an address
// identifies a client only if a reference names it.
func shutOut(ctx context.Context, target *agents.Target, volume *agentapi.VolumeDetail, nodeID string) error {
	node, err := id.ParseNode(nodeID)
	switch {
	case err == nil:
		return target.Unexport(ctx, volume.Name, agentapi.UnexportRequest{Client: node.IP.String(), Labels: agentapi.Labels{labelNode: labelValue(node.Name)}})
	case isQuarantined(volume):
		return status.Errorf(codes.FailedPrecondition, "volume %s is quarantined: it can be unpublished from one node only, whose ID has an address: %v", volume.Name, err)
	default:
		return nil
	}
}

func isQuarantined(volume *agentapi.VolumeDetail) bool {
	return volume.Health != nil && slices.ContainsFunc(volume.Health.Conditions, func(c agentapi.Condition) bool {
		return c.Reason == agentapi.ReasonQuarantined
	})
}

// labelsOfNode returns the labels that identify a reference as the node's, or as any node's with
// nodeID "". The text after the separator of the ID does not matter, nor whether it is an address.
// The exception is a reference that was migrated from an older agent: no other node will ever
// revoke it, and the address is all that is known of its owner.
func labelsOfNode(reference agentapi.ExportEntry, nodeID string) (agentapi.Labels, bool) {
	name, _, _ := strings.Cut(nodeID, "|")
	if label, ofNode := reference.Labels[labelNode]; ofNode && (nodeID == "" || label == labelValue(name)) {
		return agentapi.Labels{labelNode: label}, true
	}
	label, migrated := reference.Labels[agentapi.MigratedLabel]
	return agentapi.Labels{agentapi.MigratedLabel: label}, migrated && (nodeID == "" || isOfNode(reference, nodeID))
}

func isOfNode(reference agentapi.ExportEntry, nodeID string) bool {
	node, err := id.ParseNode(nodeID)
	return err == nil && isAtAddress(reference, node.IP)
}

func isAtAddress(reference agentapi.ExportEntry, address netip.Addr) bool {
	client, err := netip.ParseAddr(reference.Client)
	return err == nil && client.Unmap() == address.Unmap()
}

// isMigrated reports whether a reference was migrated from an older agent and names no node.
func isMigrated(reference agentapi.ExportEntry) bool {
	_, migrated := reference.Labels[agentapi.MigratedLabel]
	_, ofNode := reference.Labels[labelNode]
	return migrated && !ofNode
}
