package csiserver

import (
	"maps"
	"path"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/kubernetes-csi/csi-lib-utils/protosanitizer"
	"google.golang.org/protobuf/proto"
)

func methodName(fullMethod string) string { return path.Base(fullMethod) }

// subjects returns the volume, snapshot and node of a request, as keys and values for the log.
func subjects(request any) []any {
	var out []any
	add := func(key, value string) {
		if value != "" {
			out = append(out, key, value)
		}
	}
	if r, ok := request.(interface{ GetName() string }); ok {
		add("name", r.GetName())
	}
	if r, ok := request.(interface{ GetVolumeId() string }); ok {
		add("volume", r.GetVolumeId())
	}
	if r, ok := request.(interface{ GetSourceVolumeId() string }); ok {
		add("volume", r.GetSourceVolumeId())
	}
	if r, ok := request.(interface{ GetSnapshotId() string }); ok {
		add("snapshot", r.GetSnapshotId())
	}
	if r, ok := request.(interface{ GetNodeId() string }); ok {
		add("node", r.GetNodeId())
	}
	return out
}

// isRoutine reports whether sidecars and the kubelet repeat the call all the time.
func isRoutine(request any) bool {
	switch request.(type) {
	case *csi.ProbeRequest, *csi.GetPluginInfoRequest, *csi.GetPluginCapabilitiesRequest,
		*csi.ControllerGetCapabilitiesRequest, *csi.NodeGetCapabilitiesRequest, *csi.NodeGetInfoRequest, *csi.NodeGetVolumeStatsRequest,
		*csi.ListVolumesRequest, *csi.ListSnapshotsRequest, *csi.GetCapacityRequest,
		*csi.ControllerGetVolumeRequest, *csi.ControllerGetVolumeHealthRequest, *csi.ControllerListVolumeHealthRequest,
		*csi.NodeGetVolumeHealthRequest, *csi.NodeGetStorageHealthRequest:
		return true
	}
	return false
}

// sanitized formats a request without secrets. It returns text, because handlers format other
// values differently, and some do not resolve a slog.LogValuer.
func sanitized(request any) string {
	return protosanitizer.StripSecrets(withoutUsageToken(request)).String()
}

func withoutUsageToken(request any) any {
	r, ok := request.(interface {
		proto.Message
		GetPublishContext() map[string]string
	})
	if !ok || r.GetPublishContext()[ContextUsageToken] == "" {
		return request
	}
	context := maps.Clone(r.GetPublishContext())
	context[ContextUsageToken] = "***stripped***"
	switch copied := proto.Clone(r).(type) {
	case *csi.NodeStageVolumeRequest:
		copied.PublishContext = context
		return copied
	case *csi.NodePublishVolumeRequest:
		copied.PublishContext = context
		return copied
	}
	return "***stripped***" // a request of a later specification
}
