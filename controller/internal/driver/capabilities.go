package driver

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/class"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/mountoptions"
)

// ControllerGetCapabilities returns the capabilities of the service.
func (c *controller) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	out := &csi.ControllerGetCapabilitiesResponse{}
	for _, capability := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME,
		csi.ControllerServiceCapability_RPC_PUBLISH_READONLY,
		csi.ControllerServiceCapability_RPC_LIST_VOLUMES,
		csi.ControllerServiceCapability_RPC_LIST_VOLUMES_PUBLISHED_NODES,
		csi.ControllerServiceCapability_RPC_GET_VOLUME,
		csi.ControllerServiceCapability_RPC_GET_CAPACITY,
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_LIST_SNAPSHOTS,
		csi.ControllerServiceCapability_RPC_GET_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_CLONE_VOLUME,
		csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
		csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
		csi.ControllerServiceCapability_RPC_MODIFY_VOLUME,
		csi.ControllerServiceCapability_RPC_GET_VOLUME_HEALTH,
		csi.ControllerServiceCapability_RPC_LIST_VOLUME_HEALTH,
	} {
		out.Capabilities = append(out.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: capability}},
		})
	}
	return out, nil
}

// ValidateVolumeCapabilities confirms that the volume supports the capabilities and matches the
// parameters. Every volume of this driver supports the same capabilities.
func (c *controller) ValidateVolumeCapabilities(ctx context.Context, r *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	v, err := existingVolume(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if len(r.GetVolumeCapabilities()) == 0 {
		return nil, invalidf("volume_capabilities must not be empty")
	}
	target, volume, err := c.volume(ctx, v, r.GetSecrets())
	if err != nil {
		return nil, err
	}
	if reason := checkCapabilities(r.GetVolumeCapabilities()); reason != nil {
		return unconfirmed(reason), nil
	}
	if err := checkParameters(volume, v.Class, r.GetParameters()); err != nil {
		return unconfirmed(fmt.Errorf("parameters: %w", err)), nil
	}
	mutable, err := class.ParseMutable(r.GetMutableParameters())
	if err != nil {
		return unconfirmed(err), nil
	}
	if err := mountingOf(target.Parameters, volume).with(mutable).check(r.GetVolumeCapabilities()...); err != nil {
		return unconfirmed(err), nil
	}
	if _, err := class.FromVolumeContext(r.GetVolumeContext()); err != nil {
		return unconfirmed(fmt.Errorf("volume_context: %w", err)), nil
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeContext: r.GetVolumeContext(), VolumeCapabilities: r.GetVolumeCapabilities(), Parameters: r.GetParameters(),
		MutableParameters: r.GetMutableParameters(),
	}}, nil
}

// checkParameters returns an error if the parameters cannot have produced the volume.
func checkParameters(volume *agentapi.VolumeDetail, classKey string, parameters map[string]string) error {
	parsed, err := class.Parse(parameters)
	if err == nil {
		err = parsed.CheckMountOptions()
	}
	switch {
	case err != nil:
		return err
	case parsed.Name != "" && id.ClassKey(parsed.Name) != classKey:
		return fmt.Errorf("the volume is not of storage class %s", parsed.Name)
	case volume.SourceSnapshot != "" || volume.SourceVolume != "": // a copy has the properties of its source
		return nil
	}
	return differs(volume, parsed.Properties.RequestedProperties)
}

// unconfirmed is a response without an error: the caller asked whether the volume matches.
func unconfirmed(reason error) *csi.ValidateVolumeCapabilitiesResponse {
	return &csi.ValidateVolumeCapabilitiesResponse{Message: reason.Error()}
}

func canMake(capabilities []*csi.VolumeCapability) bool {
	return len(capabilities) == 0 || checkCapabilities(capabilities) == nil
}

func checkCapabilities(capabilities []*csi.VolumeCapability) error {
	if len(capabilities) == 0 {
		return fmt.Errorf("volume_capabilities must not be empty")
	}
	for i, capability := range capabilities {
		if err := csiserver.CheckCapability(capability); err != nil {
			return fmt.Errorf("volume_capabilities[%d]: %w", i, err)
		}
		if _, err := mountoptions.Merge(capability.GetMount().GetMountFlags()); err != nil {
			return fmt.Errorf("volume_capabilities[%d]: mount_flags: %w", i, err)
		}
	}
	return nil
}
