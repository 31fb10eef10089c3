package driver

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/class"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// Labels of an export reference.
const (
	labelNode = "node"        // labelValue of the node's name: identifies a node's references
	labelMode = "access-mode" // how the volume was published, see modeLabel
	// A node name that is too long for one label value is kept in two, so that the node ID can be
	// restored.
	labelNodeHead = "node-name-1"
	labelNodeTail = "node-name-2"
)

const maxLabelValue = 128 // bytes (agentapi.Labels)

// labels returns the labels of every object that the driver creates.
func (c *controller) labels(classKey string) agentapi.Labels {
	return agentapi.Labels{agentapi.CreatedByLabel: labelValue(c.name), class.LabelClass: labelValue(classKey)}
}

// addClaim records the claim if its name is a legal label value.
func addClaim(labels agentapi.Labels, parameters map[string]string) {
	for label, parameter := range map[string]string{class.LabelClaim: class.ClaimName, class.LabelClaimNamespace: class.ClaimNamespace} {
		if value := parameters[parameter]; value != "" && labelValue(value) == value {
			labels[label] = value
		}
	}
}

// labelValue converts any text to a label value, [A-Za-z0-9._-]{0,128}. A legal text stays as it
// is. Any other text is cleaned, truncated and given a hash, so that different texts give different
// values.
func labelValue(s string) string {
	cleaned := []byte(s)
	for i, b := range cleaned {
		if (b < 'a' || b > 'z') && (b < 'A' || b > 'Z') && (b < '0' || b > '9') && b != '.' && b != '_' && b != '-' {
			cleaned[i] = '-'
		}
	}
	if len(s) <= maxLabelValue && string(cleaned) == s {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	suffix := "-" + hex.EncodeToString(sum[:8])
	return string(cleaned[:min(len(cleaned), maxLabelValue-len(suffix))]) + suffix
}

// nodeLabels returns the labels of a node's references, whatever its address.
func nodeLabels(name string) agentapi.Labels {
	labels := agentapi.Labels{labelNode: labelValue(name)}
	if len(name) > maxLabelValue {
		labels[labelNodeHead], labels[labelNodeTail] = name[:maxLabelValue], name[maxLabelValue:]
	}
	return labels
}

// nodeOf returns the node of a reference. ok is false for a reference that no CSI driver added.
func nodeOf(reference agentapi.ExportEntry) (node id.Node, ok bool) {
	name, ok := reference.Labels[labelNode]
	if !ok {
		return id.Node{}, false
	}
	if head := reference.Labels[labelNodeHead]; head != "" {
		name = head + reference.Labels[labelNodeTail]
	}
	ip, err := netip.ParseAddr(reference.Client)
	return id.Node{Name: name, IP: ip.Unmap()}, err == nil
}
