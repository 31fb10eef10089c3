package agents

import (
	"regexp"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/class"
)

// secretRef names a secret.
type secretRef struct{ namespace, name string }

// classRefs are the class parameters that name a secret, in the order in which they are tried
// (kubernetes-csi.github.io, "StorageClass Secrets").
var classRefs = []string{"provisioner-secret", "controller-publish-secret", "controller-expand-secret", "secret"}

// The provisioner notes here which secret it will delete the volume with.
const (
	annotationDeletionSecretName      = "volume.kubernetes.io/provisioner-deletion-secret-name"
	annotationDeletionSecretNamespace = "volume.kubernetes.io/provisioner-deletion-secret-namespace"
)

// vars are what ${…} in a secret reference stands for.
type vars map[string]string

func varsOf(pv *corev1.PersistentVolume) vars {
	if pv == nil {
		return nil
	}
	v := vars{"pv.name": pv.Name}
	if claim := pv.Spec.ClaimRef; claim != nil {
		v["pvc.name"], v["pvc.namespace"] = claim.Name, claim.Namespace
	}
	return v
}

// varsOfRequest are what the provisioner adds to a request with --extra-create-metadata.
func varsOfRequest(parameters map[string]string) vars {
	v := vars{}
	for key, parameter := range map[string]string{"pv.name": class.VolumeName, "pvc.name": class.ClaimName, "pvc.namespace": class.ClaimNamespace} {
		if value := parameters[parameter]; value != "" {
			v[key] = value
		}
	}
	return v
}

// refOfClass is the first secret that the class names. found tells whether it names one at all, resolved whether vars
// were enough to know which.
func refOfClass(c *storagev1.StorageClass, vars vars) (ref secretRef, found, resolved bool) {
	for _, prefix := range classRefs {
		name, namespace := c.Parameters[class.ProvisionerPrefix+prefix+"-name"], c.Parameters[class.ProvisionerPrefix+prefix+"-namespace"]
		if name == "" || namespace == "" {
			continue
		}
		found = true
		name, nameOK := vars.expand(name)
		namespace, namespaceOK := vars.expand(namespace)
		if nameOK && namespaceOK {
			return secretRef{namespace, name}, true, true
		}
	}
	return secretRef{}, found, false
}

// refOfVolume is the secret that a PersistentVolume names.
func refOfVolume(pv *corev1.PersistentVolume) (secretRef, bool) {
	for _, ref := range []*corev1.SecretReference{pv.Spec.CSI.ControllerPublishSecretRef, pv.Spec.CSI.ControllerExpandSecretRef} {
		if ref != nil && ref.Name != "" {
			return secretRef{ref.Namespace, ref.Name}, true
		}
	}
	ref := secretRef{pv.Annotations[annotationDeletionSecretNamespace], pv.Annotations[annotationDeletionSecretName]}
	return ref, ref.name != "" && ref.namespace != ""
}

// refOfEither is the secret of a volume whose class names one that depends on the claim.
func refOfEither(c *storagev1.StorageClass, pv *corev1.PersistentVolume) (secretRef, bool) {
	if ref, _, ok := refOfClass(c, varsOf(pv)); ok {
		return ref, true
	}
	return refOfVolume(pv)
}

var template = regexp.MustCompile(`\$\{([^}]*)\}`)

// expand puts in the values; ok is false when one is not known.
func (v vars) expand(s string) (out string, ok bool) {
	ok = true
	out = template.ReplaceAllStringFunc(s, func(match string) string {
		value, known := v[match[2:len(match)-1]]
		ok = ok && known
		return value
	})
	return out, ok
}
