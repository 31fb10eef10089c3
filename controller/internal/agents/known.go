package agents

import (
	"context"
	"slices"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// KnownVolumes are the IDs of the volumes that the cluster knows of a target's tenant, sorted. known is false where it knows none of
// that agent at all, as without Kubernetes. The agent is not asked.
func (r *Registry) KnownVolumes(ctx context.Context, t *Target) (ids []string, known bool) {
	if r.kube == nil {
		return nil, false
	}
	for _, key := range r.kube.ClassKeys() {
		for _, pv := range r.kube.VolumesOf(key) {
			handle := pv.Spec.CSI.VolumeHandle
			host, tenant := r.isAt(ctx, handle, t)
			known = known || host
			if tenant {
				ids = append(ids, handle)
			}
		}
	}
	slices.Sort(ids)
	return ids, known
}

// KnownAs is the ID by which the cluster knows the volume of that name at a target's tenant. Of several it is that of the class, else
// the first.
func (r *Registry) KnownAs(ctx context.Context, t *Target, name, classKey string) (v id.Volume, found bool) {
	if r.kube == nil {
		return id.Volume{}, false
	}
	for _, pv := range r.kube.VolumesCalled(name) {
		handle := pv.Spec.CSI.VolumeHandle
		other, err := id.ParseVolume(handle)
		if err != nil || found && other.Class != classKey {
			continue
		}
		if _, tenant := r.isAt(ctx, handle, t); tenant {
			v, found = other, true
		}
	}
	return v, found
}

// isAt tells whether a volume is at a target's agent, and there of its tenant. One whose tenant cannot be told, because its
// token comes with requests only or cannot be read now, may be any tenant's.
func (r *Registry) isAt(ctx context.Context, handle string, t *Target) (host, tenant bool) {
	v, err := id.ParseVolume(handle)
	if err != nil {
		return false, false
	}
	l, found, err := r.kube.locationOf(v)
	if err != nil || !found {
		return false, false
	}
	parsed, err := l.parse()
	if err != nil || agentclient.NormalURL(parsed.AgentURL) != agentclient.NormalURL(t.URL()) {
		return false, false
	}
	client, err := r.clientFor(ctx, l, parsed.AgentURL, nil)
	return true, err != nil || client.Tenant() == t.Tenant()
}
