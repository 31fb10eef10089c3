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
	Manifest map[string]string // further facts for GetPluginInfo; may be nil
	// Ready says why the driver cannot do its work yet, nil when it can. It is asked until then, and no more. A nil function means
	// always ready.
	Ready  func(context.Context) error
	Logger *slog.Logger

	ready atomic.Bool
}

// GetPluginInfo tells name and version.
func (i *Identity) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: i.Name, VendorVersion: version.Version, Manifest: i.Manifest}, nil
}

// GetPluginCapabilities tells which services there are. It is the same for controller and node: together they are one plugin. All nodes
// are in one topology (see the node driver's NodeGetInfo), and a plugin whose nodes report one must have
// VOLUME_ACCESSIBILITY_CONSTRAINTS (CSI specification, NodeGetInfo): requirements are always met, and volumes name none, being
// accessible from everywhere.
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

// Probe answers ready=false, not an error, until the driver can do its work: an error would tell that it is broken (CSI spec,
// "Probe"). The reason is in the log. Kubernetes' livenessprobe takes both for a failure (checkProbe in its main.go), and the kubelet
// restarts what fails. So a driver that was ready once stays so: without what it has lost it can still unmount and tell what it
// knows, which one that is restarted over and over cannot; health tells what is missing. Before that, the chart's startup probe is patient.
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
