package csiserver

import (
	"context"
	"log/slog"
	"sync/atomic"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/version"
)

// Identity is the CSI identity service of a driver.
type Identity struct {
	csi.UnimplementedIdentityServer

	Name     string
	Manifest map[string]string // additional entries for GetPluginInfo; may be nil
	// Ready returns the reason why the driver cannot work yet, and nil once it can. It is not called
	// again after that. A nil function means always ready.
	Ready  func(context.Context) error
	Logger *slog.Logger

	ready atomic.Bool
}

// GetPluginInfo returns name and version.
func (i *Identity) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: i.Name, VendorVersion: version.Version, Manifest: i.Manifest}, nil
}

// GetPluginCapabilities lists the services. It is the same for controller and node: together they
// are one plugin. All nodes have one topology (see the node driver's NodeGetInfo). A plugin whose
// nodes report a topology must have VOLUME_ACCESSIBILITY_CONSTRAINTS (CSI specification,
// NodeGetInfo). Requirements are always met. Volumes have no topology, because they are accessible
// from all nodes.
func (i *Identity) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{
		service(csi.PluginCapability_Service_CONTROLLER_SERVICE),
		service(csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS),
		{Type: &csi.PluginCapability_VolumeExpansion_{VolumeExpansion: &csi.PluginCapability_VolumeExpansion{Type: csi.PluginCapability_VolumeExpansion_ONLINE}}},
	}}, nil
}

func service(t csi.PluginCapability_Service_Type) *csi.PluginCapability {
	return &csi.PluginCapability{Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{Type: t}}}
}

// Probe returns ready=false, not an error, until the driver can work: an error would mean that the
// driver is broken (CSI spec, "Probe"). The log has the reason. Kubernetes' livenessprobe takes
// both for a failure (checkProbe in its main.go), and the kubelet restarts the container. So a
// driver that was ready once stays ready. Without the lost resource it can still unmount and report
// health, which a driver in a restart loop cannot. Before that, the chart's startup probe allows
// enough time.
func (i *Identity) Probe(ctx context.Context, _ *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	if i.Ready != nil && !i.ready.Load() {
		if err := i.Ready(ctx); err != nil {
			i.Logger.Warn("not ready", "reason", err, "request_id", RequestID(ctx))
			return &csi.ProbeResponse{Ready: wrapperspb.Bool(false)}, nil
		}
		i.ready.Store(true)
	}
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}
