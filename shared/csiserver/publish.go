package csiserver

import (
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

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

// CheckCapability returns an error if volumes do not support the capability.
func CheckCapability(capability *csi.VolumeCapability) error {
	switch access := capability.GetAccessType().(type) {
	case *csi.VolumeCapability_Block:
		return errors.New("block access is not supported: a volume is a directory on an NFS server")
	case *csi.VolumeCapability_Mount:
		switch fsType := access.Mount.GetFsType(); fsType {
		case "", "nfs", "nfs4":
		default:
			return fmt.Errorf("fs_type must be nfs, nfs4 or empty, got %q", fsType)
		}
	default:
		return errors.New("access_type must be set")
	}
	mode := capability.GetAccessMode().GetMode()
	if _, known := csi.VolumeCapability_AccessMode_Mode_name[int32(mode)]; !known || mode == csi.VolumeCapability_AccessMode_UNKNOWN {
		return fmt.Errorf("access_mode must be one of the CSI specification, got %s", mode)
	}
	return nil
}
