package kube

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/class"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
)

// secretRef names a secret.
type secretRef struct{ namespace, name string }

// classRefs holds the class parameters that name a secret, in the order in which they are tried
// (kubernetes-csi.github.io, "StorageClass Secrets").
var classRefs = []string{"provisioner-secret", "controller-publish-secret", "controller-expand-secret", "secret"}

// Annotations in which the provisioner records the secret for the deletion of the volume.
const (
	annotationDeletionSecretName      = "volume.kubernetes.io/provisioner-deletion-secret-name"
	annotationDeletionSecretNamespace = "volume.kubernetes.io/provisioner-deletion-secret-namespace"
)

// ClassToken returns the source of the token in the first secret that a class names. It returns nil
// if the class names none.
//
// It refuses a class whose secrets depend on the claim, such as ${pvc.namespace}. Without a claim,
// the tenant of such a class is unknown. GetCapacity, the lists and snapshots have no claim.
func (k *API) ClassToken(c *storagev1.StorageClass) (agentclient.TokenSource, error) {
	for _, key := range slices.Sorted(maps.Keys(c.Parameters)) {
		value := c.Parameters[key]
		if strings.HasPrefix(key, class.ProvisionerPrefix) && strings.Contains(value, "${") {
			return nil, fmt.Errorf("parameter %q must not depend on the claim, got %q: name one secret, and make a class for each tenant", key, value)
		}
	}

	for _, prefix := range classRefs {
		name, namespace := c.Parameters[class.ProvisionerPrefix+prefix+"-name"], c.Parameters[class.ProvisionerPrefix+prefix+"-namespace"]
		if name != "" && namespace != "" {
			return secretToken{k.secrets, secretRef{namespace, name}}, nil
		}
	}
	return nil, nil
}

// VolumeToken returns the source of the token in the secret that a PersistentVolume names. It
// returns nil if the volume names none.
func (k *API) VolumeToken(pv *corev1.PersistentVolume) agentclient.TokenSource {
	for _, ref := range []*corev1.SecretReference{pv.Spec.CSI.ControllerPublishSecretRef, pv.Spec.CSI.ControllerExpandSecretRef} {
		if ref != nil && ref.Name != "" {
			return secretToken{k.secrets, secretRef{ref.Namespace, ref.Name}}
		}
	}

	ref := secretRef{pv.Annotations[annotationDeletionSecretNamespace], pv.Annotations[annotationDeletionSecretName]}
	if ref.name == "" || ref.namespace == "" {
		return nil
	}
	return secretToken{k.secrets, ref}
}
