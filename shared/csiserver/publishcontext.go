package csiserver

import "github.com/container-storage-interface/spec/lib/go/csi"

// Keys of publish_context. The controller fills them, and the node driver reads them.
const (
	ContextServer       = "nfsServer"       // host name or address, IPv6 without brackets
	ContextPath         = "nfsPath"         // absolute path on the server
	ContextMountOptions = "nfsMountOptions" // comma-separated; optional
	ContextAgentURL     = "agentURL"        // of the agent that tells the usage; optional

	// ContextUsageToken is the capability to read a volume's usage. The specification does not count
	// it as a secret, so the log leaves it out by name.
	ContextUsageToken = "usageToken"

	// How the volume was published: kubelet gives the node the first access mode of a PersistentVolume,
	// and external-attacher the controller the widest. Older controllers send neither.
	ContextAccessMode = "accessMode" // the name of a csi.VolumeCapability_AccessMode_Mode
	ContextReadOnly   = "readOnly"   // true or false
)

// OnlyReads reports whether an access mode allows no writing.
func OnlyReads(mode csi.VolumeCapability_AccessMode_Mode) bool {
	return mode == csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY || mode == csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
}
