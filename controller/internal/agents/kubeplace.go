package agents

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/class"
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
		return k.classPlace(sortedByName(classes)[0], varsOf(pv), pv), true, nil
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
			out = append(out, k.classPlaces(class)...)
		}
	}
	for _, key := range k.volumes.GetIndexer().ListIndexFuncValues(byClassKey) {
		if !known[key] {
			out = append(out, k.orphanPlaces(key)...)
		}
	}
	return out
}

// classPlace is the place of a class. Which secret it names may depend on the claim: vars and pv, which may be nil, say
// whose.
func (k *Kube) classPlace(c *storagev1.StorageClass, vars vars, pv *corev1.PersistentVolume) place {
	p := place{name: c.Name, key: id.ClassKey(c.Name), parameters: c.Parameters}
	ref, found, resolved := refOfClass(c, vars)
	if !resolved && pv != nil {
		ref, resolved = refOfVolume(pv)
	}
	if !resolved && found && pv == nil {
		ref, resolved = k.commonRef(p.key, c)
	}
	switch {
	case resolved:
		p.tokens = k.secrets.source(ref)
	case found:
		p.tokensErr = fmt.Errorf("its secret depends on the claim, and the request does not bring the token")
	}
	return p
}

// commonRef is the secret of a class whose secret depends on the claim, where all its volumes have the same.
func (k *Kube) commonRef(key string, c *storagev1.StorageClass) (secretRef, bool) {
	refs := map[secretRef]bool{}
	for _, pv := range k.volumesOf(key) {
		if ref, ok := refOfEither(c, pv); ok {
			refs[ref] = true
		}
	}
	if len(refs) != 1 {
		return secretRef{}, false
	}
	return slices.Collect(maps.Keys(refs))[0], true
}

// classPlaces is one place for each secret that a class names through its volumes. Where it names one outright that is
// one place; where it depends on the claim and there is no volume yet, none.
func (k *Kube) classPlaces(c *storagev1.StorageClass) []place {
	if _, found, resolved := refOfClass(c, nil); resolved || !found {
		return []place{k.classPlace(c, nil, nil)}
	}
	var out []place
	seen := map[secretRef]bool{}
	for _, pv := range k.volumesOf(id.ClassKey(c.Name)) {
		if ref, ok := refOfEither(c, pv); ok && !seen[ref] {
			seen[ref] = true
			out = append(out, k.classPlace(c, varsOf(pv), pv))
		}
	}
	return out
}

// orphanPlace is the place of a volume whose class is gone; none where the volume does not tell an agent.
func (k *Kube) orphanPlace(key string, pv *corev1.PersistentVolume) (place, bool) {
	parsed, err := class.FromVolumeContext(pv.Spec.CSI.VolumeAttributes)
	if err != nil || parsed.AgentURL == "" {
		return place{}, false
	}
	p := place{name: key, key: key, parameters: parsed.VolumeContext()}
	if ref, ok := refOfVolume(pv); ok {
		p.tokens = k.secrets.source(ref)
	} else {
		p.tokensErr = fmt.Errorf("it is gone, and PersistentVolume %s names no secret", pv.Name)
	}
	return p, true
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
		if i := (identity{normalise(p.parameters[class.AgentURL]), ref}); !seen[i] {
			seen[i] = true
			out = append(out, p)
		}
	}
	return out
}
