package agents

import (
	"slices"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// KnownVolumes are the IDs of the volumes that the cluster knows at a target, sorted; none without Kubernetes. The agent
// is not asked.
func (r *Registry) KnownVolumes(t *Target) []string {
	if r.kube == nil {
		return nil
	}
	out := []string{}
	for _, key := range r.kube.volumes.GetIndexer().ListIndexFuncValues(byClassKey) {
		for _, pv := range r.kube.volumesOf(key) {
			handle := pv.Spec.CSI.VolumeHandle
			if r.kube.isAt(handle, t) {
				out = append(out, handle)
			}
		}
	}
	slices.Sort(out)
	return out
}

// isAt goes by the agent's URL: the tenant shows only in the secret's contents, and an agent that cannot be reached by one of
// its tenants cannot be reached by any.
func (k *Kube) isAt(handle string, t *Target) bool {
	v, err := id.ParseVolume(handle)
	if err != nil {
		return false
	}
	p, found, err := k.placeOf(v)
	if err != nil || !found {
		return false
	}
	parsed, err := p.parse()
	return err == nil && normalise(parsed.AgentURL) == normalise(t.URL())
}
