package driver

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/agents"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/class"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// ControllerGetVolume reads a volume and the nodes that it is published to.
func (c *controller) ControllerGetVolume(ctx context.Context, r *csi.ControllerGetVolumeRequest) (*csi.ControllerGetVolumeResponse, error) {
	v, err := existingVolume(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	target, volume, err := c.volume(ctx, v, nil)
	if err != nil {
		return nil, err
	}
	return &csi.ControllerGetVolumeResponse{
		Volume: volumeOf(target, volume, v.Class),
		Status: &csi.ControllerGetVolumeResponse_VolumeStatus{PublishedNodeIds: publishedNodes(volume)},
	}, nil
}

// volumeOf translates a volume to CSI, with the ID of a class.
func volumeOf(target *agents.Target, v *agentapi.VolumeDetail, classKey string) *csi.Volume {
	return &csi.Volume{
		VolumeId:      id.NewVolume(classKey, v.Name).String(),
		CapacityBytes: capacity(v),
		VolumeContext: target.Parameters.VolumeContext(),
		ContentSource: contentSource(v, classKey),
	}
}

// contentSource names the source with this class, which has the same tenant as the class of the
// source.
func contentSource(v *agentapi.VolumeDetail, classKey string) *csi.VolumeContentSource {
	switch {
	case v.SourceSnapshot != "":
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{Snapshot: &csi.VolumeContentSource_SnapshotSource{
			SnapshotId: id.NewVolume(classKey, v.SourceSnapshot).String(),
		}}}
	case v.SourceVolume != "":
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{
			VolumeId: id.NewVolume(classKey, v.SourceVolume).String(),
		}}}
	}
	return nil
}

// publishedNodes returns the sorted IDs of the nodes that the volume is published to.
func publishedNodes(v *agentapi.VolumeDetail) []string {
	nodes := map[string]bool{}
	for _, reference := range v.Clients {
		if node, ok := nodeOf(reference); ok {
			nodes[node.String()] = true
		}
	}
	return slices.Sorted(maps.Keys(nodes))
}

// volumeClass returns the class that a list shows for a volume. It is the class in the
// PersistentVolume, because the orchestrator compares IDs with that. An adopted volume may have a
// different class than the one that created it. Without a PersistentVolume, it is the class in the
// volume's labels.
func (c *controller) volumeClass(ctx context.Context, target *agents.Target, v *agentapi.VolumeDetail) string {
	key := cmp.Or(v.Labels[class.LabelClass], target.Class)
	if known, found := c.agents.KnownAs(ctx, target, v.Name, key); found {
		return known.Class
	}
	return key
}

// firstUnknown returns the first parameter, by name, that is not for a sidecar.
func firstUnknown(parameters map[string]string) (string, bool) {
	for _, key := range slices.Sorted(maps.Keys(parameters)) {
		if !strings.HasPrefix(key, class.ProvisionerPrefix) {
			return key, true
		}
	}
	return "", false
}
