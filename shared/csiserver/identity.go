package csiserver

import (
	"context"
	"log/slog"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/version"
)

// Identity is the CSI identity service of a driver.
type Identity struct {
	csi.UnimplementedIdentityServer

	Name         string
	Capabilities []*csi.PluginCapability
	Manifest     map[string]string // further facts for GetPluginInfo; may be nil
	// Ready says why the driver cannot do its work yet, nil when it can. A nil function means always ready.
	Ready  func(context.Context) error
	Logger *slog.Logger
}

// GetPluginInfo tells name and version.
func (i *Identity) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: i.Name, VendorVersion: version.Version, Manifest: i.Manifest}, nil
}

// GetPluginCapabilities tells which services there are.
func (i *Identity) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{Capabilities: i.Capabilities}, nil
}

// Probe answers ready=false, not an error, while the driver starts: an error would make the orchestrator restart it
// (CSI spec, "Probe"). The reason is in the log.
func (i *Identity) Probe(ctx context.Context, _ *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	if i.Ready != nil {
		if err := i.Ready(ctx); err != nil {
			i.Logger.Warn("not ready", "reason", err, "request_id", RequestID(ctx))
			return &csi.ProbeResponse{Ready: wrapperspb.Bool(false)}, nil
		}
	}
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}
