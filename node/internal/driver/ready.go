package driver

import (
	"context"
	"errors"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// PluginCapabilities are the same for the node's identity service as for the controller's: together they are one plugin,
// and that has a controller service. A plugin whose nodes report a topology must have VOLUME_ACCESSIBILITY_CONSTRAINTS (CSI
// specification, NodeGetInfo).
func PluginCapabilities() []*csi.PluginCapability {
	return []*csi.PluginCapability{
		service(csi.PluginCapability_Service_CONTROLLER_SERVICE),
		service(csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS),
	}
}

func service(t csi.PluginCapability_Service_Type) *csi.PluginCapability {
	return &csi.PluginCapability{Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{Type: t}}}
}

// Ready says why the node cannot mount volumes: no mount.nfs, a kernel without NFS, or no address to mount from. All that is
// missing is in the error. Once there was nothing, it is NodeGetStorageHealth that goes on asking.
func (n *Node) Ready(ctx context.Context) error {
	_, err := n.Address()
	return errors.Join(n.Supported(ctx), err)
}
