package agents

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/class"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// placeOf finds where a volume or snapshot is. A class that is there tells by itself; a class that is gone is told by the
// PersistentVolume, or, for a snapshot, by the PersistentVolumes of its class as long as they agree.
func (k *Kube) placeOf(v id.Volume) (place, bool, error) {
	var pv *corev1.PersistentVolume
	if found := typed[*corev1.PersistentVolume](k.volumes.GetIndexer().ByIndex(byHandle, v.String())); len(found) > 0 {
		pv = sortedByName(found)[0]
	}
	if classes := k.classesOf(v.Class); len(classes) > 0 {
		p := k.classPlace(sortedByName(classes)[0])
		if p.tokens == nil && pv != nil {
			k.useSecretOf(pv, &p)
		}
		return p, true, nil
	}
	if pv != nil {
		p, ok := k.orphanPlace(v.Class, pv)
		return p, ok, nil
	}
	switch orphans := k.orphanPlaces(v.Class); len(orphans) {
	case 0:
		return place{}, false, nil
	case 1:
		return orphans[0], true, nil
	default:
		return place{}, false, fmt.Errorf("%w: storage class %s is gone and its volumes are at more than one agent or tenant", ErrMisconfigured, v.Class)
	}
}

// places are those of all classes, and of the volumes whose class is gone.
func (k *Kube) places() []place {
	var out []place
	known := map[string]bool{}
	for _, class := range typed[*storagev1.StorageClass](k.classes.GetIndexer().List(), nil) {
		if class.Provisioner == k.driver {
			known[id.ClassKey(class.Name)] = true
			out = append(out, k.classPlace(class))
		}
	}
	for _, key := range k.volumes.GetIndexer().ListIndexFuncValues(byClassKey) {
		if !known[key] {
			out = append(out, k.orphanPlaces(key)...)
		}
	}
	return out
}

// classPlace is the place of a class.
func (k *Kube) classPlace(c *storagev1.StorageClass) place {
	p := place{name: c.Name, key: id.ClassKey(c.Name), parameters: c.Parameters, tokensErr: checkRefs(c)}
	if ref, found := refOfClass(c); found && p.tokensErr == nil {
		p.tokens = secretToken{k.secrets, ref}
	}
	return p
}

// orphanPlace is the place of a volume whose class is gone; none where the volume does not tell an agent.
func (k *Kube) orphanPlace(key string, pv *corev1.PersistentVolume) (place, bool) {
	parsed, err := class.FromVolumeContext(pv.Spec.CSI.VolumeAttributes)
	if err != nil || parsed.AgentURL == "" {
		return place{}, false
	}
	p := place{name: key, key: key, parameters: parsed.VolumeContext()}
	if !k.useSecretOf(pv, &p) {
		p.tokensErr = fmt.Errorf("it is gone, and PersistentVolume %s names no secret", pv.Name)
	}
	return p, true
}

// useSecretOf takes the token from the secret that a PersistentVolume names, if it names one.
func (k *Kube) useSecretOf(pv *corev1.PersistentVolume, p *place) bool {
	ref, found := refOfVolume(pv)
	if found {
		p.tokens, p.tokensErr = secretToken{k.secrets, ref}, nil
	}
	return found
}

// orphanPlaces are the different places of a class that is gone.
func (k *Kube) orphanPlaces(key string) []place {
	type identity struct {
		url string
		ref secretRef
	}
	var out []place
	seen := map[identity]bool{}
	for _, pv := range k.volumesOf(key) {
		p, ok := k.orphanPlace(key, pv)
		if !ok {
			continue
		}
		ref, _ := refOfVolume(pv)
		if i := (identity{agentclient.NormalURL(p.parameters[class.AgentURL]), ref}); !seen[i] {
			seen[i] = true
			out = append(out, p)
		}
	}
	return out
}
