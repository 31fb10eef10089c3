package agents

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/class"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/kube"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// cluster derives locations from the Kubernetes API.
type cluster struct{ *kube.API }

// locationOf returns the location of a volume or snapshot. An existing class gives the location
// itself. If the class is deleted, the PersistentVolume gives the location of a volume. For a
// snapshot, the PersistentVolumes of its class give it if they all agree.
func (c *cluster) locationOf(v id.Volume) (location, bool, error) {
	var pv *corev1.PersistentVolume
	if found := c.VolumesWithHandle(v.String()); len(found) > 0 {
		pv = found[0]
	}

	if classes := c.ClassesOf(v.Class); len(classes) > 0 {
		l := c.ofClass(classes[0])
		if l.tokens == nil && pv != nil {
			c.useTokenOf(pv, &l)
		}
		return l, true, nil
	}
	if pv != nil {
		l, found := c.ofVolume(v.Class, pv)
		return l, found, nil
	}

	switch all := c.ofVolumes(v.Class); len(all) {
	case 0:
		return location{}, false, nil
	case 1:
		return all[0], true, nil
	default:
		return location{}, false, fmt.Errorf("%w: storage class %s is deleted and its volumes are at more than one agent or tenant", class.ErrMisconfigured, v.Class)
	}
}

// locations returns the locations of all classes, and of the volumes whose class is deleted.
func (c *cluster) locations() []location {
	var out []location
	known := map[string]bool{}
	for _, sc := range c.Classes() {
		known[id.ClassKey(sc.Name)] = true
		out = append(out, c.ofClass(sc))
	}
	for _, key := range c.ClassKeys() {
		if !known[key] {
			out = append(out, c.ofVolumes(key)...)
		}
	}
	return out
}

// named returns the location of the StorageClass with that name.
func (c *cluster) named(name string) (location, bool) {
	for _, sc := range c.ClassesOf(id.ClassKey(name)) {
		if sc.Name == name {
			return c.ofClass(sc), true
		}
	}
	return location{}, false
}

// withParameters returns the locations of the StorageClasses with exactly these parameters. It
// ignores parameters for the sidecars: the provisioner removes them and adds others.
func (c *cluster) withParameters(parameters map[string]string) []location {
	var out []location
	for _, sc := range c.Classes() {
		if maps.Equal(ownParameters(sc.Parameters), ownParameters(parameters)) {
			out = append(out, c.ofClass(sc))
		}
	}
	return out
}

func ownParameters(parameters map[string]string) map[string]string {
	own := maps.Clone(parameters)
	maps.DeleteFunc(own, func(key, _ string) bool { return strings.HasPrefix(key, class.ProvisionerPrefix) })
	return own
}

func (c *cluster) ofClass(sc *storagev1.StorageClass) location {
	l := location{name: sc.Name, key: id.ClassKey(sc.Name), parameters: sc.Parameters}
	l.tokens, l.tokensErr = c.ClassToken(sc)
	return l
}

// ofVolume returns the location of a volume whose class is deleted. It returns false if the volume
// names no agent.
func (c *cluster) ofVolume(key string, pv *corev1.PersistentVolume) (location, bool) {
	parsed, err := class.FromVolumeContext(pv.Spec.CSI.VolumeAttributes)
	if err != nil || parsed.AgentURL == "" {
		return location{}, false
	}
	l := location{name: key, key: key, parameters: parsed.VolumeContext()}
	l.tokensErr = fmt.Errorf("it is deleted, and PersistentVolume %s names no secret", pv.Name)
	c.useTokenOf(pv, &l)
	return l, true
}

// useTokenOf sets the token from the secret that a PersistentVolume names, if it names one.
func (c *cluster) useTokenOf(pv *corev1.PersistentVolume, l *location) {
	if tokens := c.VolumeToken(pv); tokens != nil {
		l.tokens, l.tokensErr = tokens, nil
	}
}

// ofVolumes returns the distinct locations of the volumes of a deleted class.
func (c *cluster) ofVolumes(key string) []location {
	var out []location
	for _, pv := range c.VolumesOf(key) {
		l, found := c.ofVolume(key, pv)
		if found && !slices.ContainsFunc(out, l.same) {
			out = append(out, l)
		}
	}
	return out
}

// same reports whether both locations have the same agent and secret.
func (l location) same(other location) bool {
	return l.tokens == other.tokens &&
		agentclient.NormalURL(l.parameters[class.AgentURL]) == agentclient.NormalURL(other.parameters[class.AgentURL])
}
