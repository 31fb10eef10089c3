package driver

import (
	"context"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/agents"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// publication is a volume at a node, as a request asks for it.
type publication struct {
	node     id.Node
	mode     csi.VolumeCapability_AccessMode_Mode
	readOnly bool // as the request says; see onlyReads
}

func (p publication) singleNode() bool { return isSingleNode(modeLabel(p.mode)) }

// onlyReads tells whether the node gets a read-only export.
func (p publication) onlyReads() bool {
	return p.readOnly || p.mode == csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY || p.mode == csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
}

// Values of the label access-mode.
const (
	modeSingleNode         = "single-node-writer"
	modeSingleNodeReader   = "single-node-reader-only"
	modeSingleNodeOnePod   = "single-node-single-writer"
	modeMultiNodeReader    = "multi-node-reader-only"
	modeMultiNodeOneWriter = "multi-node-single-writer"
	modeMultiNode          = "multi-node-multi-writer"
)

// modeLabel notes how a volume was published. SINGLE_NODE_WRITER and SINGLE_NODE_MULTI_WRITER are the same to us: which of
// them ReadWriteOnce becomes depends on the sidecars' version, and an upgrade must not make a publication incompatible.
func modeLabel(mode csi.VolumeCapability_AccessMode_Mode) string {
	switch mode {
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER:
		return modeSingleNode
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY:
		return modeSingleNodeReader
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER:
		return modeSingleNodeOnePod
	case csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY:
		return modeMultiNodeReader
	case csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER:
		return modeMultiNodeOneWriter
	default:
		return modeMultiNode
	}
}

func isSingleNode(label string) bool { return strings.HasPrefix(label, "single-node-") }

// conflict compares with the volume's references. On the same node: AlreadyExists when it was published in another way. On
// another: FailedPrecondition when either mode allows one node only, or a second writer would come to one that allows one.
func (p publication) conflict(volume *agentapi.VolumeDetail) error {
	for _, reference := range volume.Clients {
		node, ok := nodeOf(reference)
		if !ok {
			continue
		}
		mode := reference.Labels[labelMode]
		switch {
		case p.owns(reference):
			if reference.ReadOnly != p.onlyReads() || mode != "" && mode != modeLabel(p.mode) {
				return status.Errorf(codes.AlreadyExists, "volume %s is published at node %s as %s, read-only %t", volume.Name, node.Name, mode, reference.ReadOnly)
			}
		case p.singleNode() || isSingleNode(mode):
			return status.Errorf(codes.FailedPrecondition, "volume %s is published at node %s, and access mode %s allows one node only", volume.Name, node.Name, p.modeAgainst(mode))
		case p.mode == csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER && !p.onlyReads() && !reference.ReadOnly:
			return status.Errorf(codes.FailedPrecondition, "volume %s is published at node %s for writing, and access mode %s allows one writer only", volume.Name, node.Name, modeLabel(p.mode))
		}
	}
	return nil
}

// modeAgainst is the one of the two modes that allows one node only.
func (p publication) modeAgainst(other string) string {
	if p.singleNode() {
		return modeLabel(p.mode)
	}
	return other
}

// owns tells whether a reference is the node's, at whatever address.
func (p publication) owns(reference agentapi.ExportEntry) bool {
	return reference.Labels[labelNode] == labelValue(p.node.Name)
}

// present tells whether the node has the volume at its present address.
func (p publication) present(volume *agentapi.VolumeDetail) bool {
	return slices.ContainsFunc(volume.Clients, func(reference agentapi.ExportEntry) bool {
		node, ok := nodeOf(reference)
		return ok && p.owns(reference) && node.IP == p.node.IP
	})
}

// moveAway revokes what the node has at other addresses: its address changed, and the old one may be another machine's now.
func (p publication) moveAway(ctx context.Context, target *agents.Target, volume *agentapi.VolumeDetail) error {
	for _, reference := range volume.Clients {
		if node, ok := nodeOf(reference); !ok || !p.owns(reference) || node.IP == p.node.IP {
			continue
		}
		if err := target.Unexport(ctx, volume.Name, agentapi.UnexportRequest{Client: reference.Client, Labels: agentapi.Labels{labelNode: reference.Labels[labelNode]}}); err != nil {
			return err
		}
	}
	return nil
}

// reference names the node's references at its present address.
func (p publication) reference() agentapi.UnexportRequest {
	return agentapi.UnexportRequest{Client: p.node.IP.String(), Labels: agentapi.Labels{labelNode: labelValue(p.node.Name)}}
}

func (c *controller) referenceLabels(p publication) agentapi.Labels {
	labels := nodeLabels(p.node.Name)
	labels[agentapi.CreatedByLabel] = labelValue(c.name)
	labels[labelMode] = modeLabel(p.mode)
	return labels
}

// oneAtATime is for modes where what one node gets depends on what the others have.
func (p publication) oneAtATime() bool {
	return p.singleNode() || p.mode == csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER
}
