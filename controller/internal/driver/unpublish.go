package driver

import (
	"context"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// ControllerUnpublishVolume revokes a node's access, and when it returns the node can no longer read or write. It goes by the
// node's name, so that a node is found whose address is not what its ID says any more. Without a node it revokes that
// of all nodes.
func (c *controller) ControllerUnpublishVolume(ctx context.Context, r *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	if r.GetVolumeId() == "" {
		return nil, invalidf("volume_id must not be empty")
	}
	v, err := id.ParseVolume(r.GetVolumeId())
	if err != nil {
		c.logger.Info("nothing to unpublish: the volume ID is not of this driver", "volume", r.GetVolumeId(), "reason", err)
		return &csi.ControllerUnpublishVolumeResponse{}, nil
	}
	target, volume, err := c.volume(ctx, v, r.GetSecrets())
	if agentapi.IsCode(err, agentapi.NotFound) {
		return &csi.ControllerUnpublishVolumeResponse{}, nil // no volume, so no access
	}
	if err != nil {
		return nil, err
	}
	for _, reference := range volume.Clients {
		if !isOfNode(reference, r.GetNodeId()) {
			continue
		}
		if err := target.Unexport(ctx, v.Name, agentapi.UnexportRequest{Client: reference.Client, Labels: agentapi.Labels{labelNode: reference.Labels[labelNode]}}); err != nil {
			return nil, err
		}
	}
	return &csi.ControllerUnpublishVolumeResponse{}, nil
}

// isOfNode tells whether a reference belongs to the node, or, with nodeID "", to any. What is behind the separator of the
// ID, and whether it is an address, does not matter.
func isOfNode(reference agentapi.ExportEntry, nodeID string) bool {
	label, ofNode := reference.Labels[labelNode]
	name, _, _ := strings.Cut(nodeID, "|")
	return ofNode && (nodeID == "" || label == labelValue(name))
}
