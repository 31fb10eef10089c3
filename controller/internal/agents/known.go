package agents

import (
	"context"
	"slices"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// KnownVolumes returns the sorted IDs of the volumes of a target's tenant that the cluster knows.
// known is false if the cluster knows no volume of that agent, for example without Kubernetes.
// KnownVolumes does not ask the agent.
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

// KnownAs returns the volume ID that the cluster has for the volume of that name at a target's
// tenant. If there are several, it prefers the ID with the class, and otherwise returns the first.
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

// isAt reports whether a volume is at a target's agent, and whether it belongs to the target's
// tenant. If the tenant is unknown, the volume may belong to any tenant. The tenant is unknown if
// the token comes only with requests, or if it cannot be read now.
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
