package csiserver

import "github.com/container-storage-interface/spec/lib/go/csi"

// Keys of publish_context. The controller fills them, and the node driver reads them.
const (
	ContextServer       = "nfsServer"       // host name or address, IPv6 without brackets
	ContextPath         = "nfsPath"         // absolute path on the server
	ContextMountOptions = "nfsMountOptions" // comma-separated; optional
	ContextAgentURL     = "agentURL"        // of the agent that reports the usage; optional

	// ContextUsageToken is the token for a volume's usage. The specification does not mark it as a
	// secret, so the log omits it by name.
	ContextUsageToken = "usageToken"

	// How the volume was published. The kubelet sends the node the first access mode of a
	// PersistentVolume, and external-attacher sends the controller the widest. Older controllers send
	// neither key.
	ContextAccessMode = "accessMode" // the name of a csi.VolumeCapability_AccessMode_Mode
	ContextReadOnly   = "readOnly"   // true or false
)

// OnlyReads reports whether an access mode forbids writing.
func OnlyReads(mode csi.VolumeCapability_AccessMode_Mode) bool {
	return mode == csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY || mode == csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
}
