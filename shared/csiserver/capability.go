package csiserver

import (
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

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
