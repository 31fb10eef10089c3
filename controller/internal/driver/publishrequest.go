package driver

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/agents"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// publishRequest is the request to publish a volume to a node.
type publishRequest struct {
	node     id.Node
	mode     csi.VolumeCapability_AccessMode_Mode
	readOnly bool // from the request; see onlyReads
}

func (p publishRequest) singleNode() bool { return isSingleNode(modeLabel(p.mode)) }

// onlyReads reports whether the node gets a read-only export.
func (p publishRequest) onlyReads() bool {
	return p.readOnly || csiserver.OnlyReads(p.mode)
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

// modeLabel records how a volume was published. SINGLE_NODE_WRITER and SINGLE_NODE_MULTI_WRITER are
// equivalent for this driver. The sidecars' version decides which of them ReadWriteOnce becomes,
// and an upgrade must not make a publication incompatible.
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

// conflict compares the request with the volume's references. A reference of the same node that was
// published in another way is AlreadyExists. A reference of another node, or of another client, is
// FailedPrecondition when an access mode of the two does not allow it.
func (p publishRequest) conflict(volume *agentapi.VolumeDetail) error {
	for _, reference := range volume.Clients {
		node, ok := nodeOf(reference)
		if !ok {
			continue
		}
		if p.owns(reference) {
			mode := reference.Labels[labelMode]
			if reference.ReadOnly != p.onlyReads() || mode != "" && mode != modeLabel(p.mode) {
				return status.Errorf(codes.AlreadyExists, "volume %s is published at node %s as %s, read-only %t", volume.Name, node.Name, mode, reference.ReadOnly)
			}
			continue
		}
		if rule := p.excludes(reference); rule != "" {
			return status.Errorf(codes.FailedPrecondition, "volume %s is published at node %s, and %s", volume.Name, node.Name, rule)
		}
	}
	return p.conflictWithClients(volume)
}

// conflictWithClients checks the references that name no node: migrated from an older agent, or
// added with the command line or by another program. Each lets a client in. Its access mode is
// unknown, so the request's access mode decides. References at the node's address let no other
// client in.
func (p publishRequest) conflictWithClients(volume *agentapi.VolumeDetail) error {
	for _, reference := range volume.Clients {
		_, ofNode := nodeOf(reference)
		if ofNode || isAtAddress(reference, p.node.IP) || isMigrated(reference) && p.leaves(volume, reference) {
			continue
		}
		rule := p.excludes(reference)
		if rule == "" {
			continue
		}
		origin := "an export without a node"
		if isMigrated(reference) {
			origin = "an export taken over from an older agent"
		}
		return status.Errorf(codes.FailedPrecondition,
			"volume %s is exported to address %s (%s), and %s: when that client no longer uses the volume, run btrfs-nfs-agent export remove %s %s",
			volume.Name, reference.Client, origin, rule, volume.Name, reference.Client)
	}
	return nil
}

// excludes returns the rule of an access mode that forbids the request together with the reference
// of another node or client. It is empty if both can be published.
func (p publishRequest) excludes(reference agentapi.ExportEntry) string {
	const oneNode, oneWriter = "access mode %s allows one node only", "access mode %s allows one writer only"
	mode := reference.Labels[labelMode]
	switch {
	case p.singleNode():
		return fmt.Sprintf(oneNode, modeLabel(p.mode))
	case isSingleNode(mode):
		return fmt.Sprintf(oneNode, mode)
	case p.mode == csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER && !p.onlyReads() && !reference.ReadOnly:
		return fmt.Sprintf(oneWriter, modeLabel(p.mode))
	}
	return ""
}

// owns reports whether a reference belongs to the node, at any address.
func (p publishRequest) owns(reference agentapi.ExportEntry) bool {
	return reference.Labels[labelNode] == labelValue(p.node.Name)
}

// present reports whether the node has the volume at its present address.
func (p publishRequest) present(volume *agentapi.VolumeDetail) bool {
	return slices.ContainsFunc(volume.Clients, func(reference agentapi.ExportEntry) bool {
		node, ok := nodeOf(reference)
		return ok && p.owns(reference) && node.IP == p.node.IP
	})
}

// leaves reports whether a reference is at a former address of the node. Another reference of the
// node shows that.
func (p publishRequest) leaves(volume *agentapi.VolumeDetail, reference agentapi.ExportEntry) bool {
	return !isAtAddress(reference, p.node.IP) && slices.ContainsFunc(volume.Clients, func(other agentapi.ExportEntry) bool {
		return p.owns(other) && other.Client == reference.Client
	})
}

// moveAway revokes the node's references at other addresses: its address changed, and another
// machine may have the old one now. It also revokes references at such an address that were
// migrated from an older agent.
func (p publishRequest) moveAway(ctx context.Context, target *agents.Target, volume *agentapi.VolumeDetail) error {
	for _, reference := range volume.Clients {
		var key string
		switch {
		case p.owns(reference):
			key = labelNode
		case isMigrated(reference):
			key = agentapi.MigratedLabel
		}
		if key == "" || !p.leaves(volume, reference) {
			continue
		}
		labels := agentapi.Labels{key: reference.Labels[key]}
		if err := target.Unexport(ctx, volume.Name, agentapi.UnexportRequest{Client: reference.Client, Labels: labels}); err != nil {
			return err
		}
	}
	return nil
}

// reference names the node's references at its present address.
func (p publishRequest) reference() agentapi.UnexportRequest {
	return agentapi.UnexportRequest{Client: p.node.IP.String(), Labels: agentapi.Labels{labelNode: labelValue(p.node.Name)}}
}

func (c *controller) referenceLabels(p publishRequest) agentapi.Labels {
	labels := nodeLabels(p.node.Name)
	labels[agentapi.CreatedByLabel] = labelValue(c.name)
	labels[labelMode] = modeLabel(p.mode)
	return labels
}

// oneAtATime reports whether the access mode makes a node's access depend on that of the other
// nodes.
func (p publishRequest) oneAtATime() bool {
	return p.singleNode() || p.mode == csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER
}
