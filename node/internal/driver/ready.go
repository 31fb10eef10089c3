package driver

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// helper makes NFS mounts for mount(8), which looks for it in these directories whatever PATH says.
const helper = "mount.nfs"

// PluginCapabilities are the same for the node's identity service as for the controller's: together they are one plugin,
// and that has a controller service.
func PluginCapabilities() []*csi.PluginCapability {
	return []*csi.PluginCapability{{
		Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{Type: csi.PluginCapability_Service_CONTROLLER_SERVICE}},
	}}
}

// Ready says why the node cannot mount volumes yet: no mount.nfs, or no address to mount from.
func (n *Node) Ready(context.Context) error {
	if err := hasHelper(); err != nil {
		return err
	}
	_, err := n.Address()
	return err
}

func hasHelper() error {
	for _, dir := range []string{"/sbin", "/usr/sbin"} {
		if _, err := exec.LookPath(filepath.Join(dir, helper)); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%s is not installed (package nfs-common or nfs-utils)", helper)
}
