// Package kube reads objects from the Kubernetes API: StorageClasses, PersistentVolumes and
// CSINodes with informers, and secrets, claims and nodes on demand.
package kube

import (
	"context"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// API is the part of the Kubernetes API that a driver needs. It returns only objects of that
// driver.
type API struct {
	client  kubernetes.Interface
	driver  string
	timeout time.Duration // for one call to the API
	secrets *secrets

	factory informers.SharedInformerFactory
	classes cache.SharedIndexInformer
	volumes cache.SharedIndexInformer
	nodes   cache.SharedIndexInformer
}

// Indexes of the informers.
const (
	byClassKey   = "class" // StorageClasses and PersistentVolumes of this driver, by id.ClassKey
	byHandle     = "handle"
	byVolumeName = "volume" // PersistentVolumes of this driver, by the name that the agent knows
	byNodeName   = "node"   // CSINodes that run this driver, by the name in the node ID
)

// New prepares the informers. Run starts them. driver is the provisioner name of the classes.
func New(client kubernetes.Interface, driver string, timeout, secretTTL time.Duration) (*API, error) {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(withoutManagedFields))
	k := &API{
		client: client, driver: driver, timeout: timeout, secrets: newSecrets(client, timeout, secretTTL),
		factory: factory,
		classes: factory.Storage().V1().StorageClasses().Informer(),
		volumes: factory.Core().V1().PersistentVolumes().Informer(),
		nodes:   factory.Storage().V1().CSINodes().Informer(),
	}
	if err := k.classes.AddIndexers(cache.Indexers{byClassKey: k.classIndex}); err != nil {
		return nil, err
	}
	if err := k.volumes.AddIndexers(cache.Indexers{byHandle: k.handleIndex, byClassKey: k.idIndex(classOf), byVolumeName: k.idIndex(nameOf)}); err != nil {
		return nil, err
	}
	if err := k.nodes.AddIndexers(cache.Indexers{byNodeName: k.nodeIndex}); err != nil {
		return nil, err
	}
	return k, nil
}

// Run runs the informers until ctx ends.
func (k *API) Run(ctx context.Context) {
	k.factory.StartWithContext(ctx)
	<-ctx.Done()
	k.factory.Shutdown()
}

// Ready returns an error until the informers have read everything once.
func (k *API) Ready() error {
	for _, informer := range []struct {
		name string
		cache.SharedIndexInformer
	}{{"StorageClasses", k.classes}, {"PersistentVolumes", k.volumes}, {"CSINodes", k.nodes}} {
		if !informer.HasSynced() {
			return agentapi.Errorf(agentapi.Unavailable, "the %s have not been read from the Kubernetes API yet", informer.name)
		}
	}
	return nil
}

// Claim is the part of a PersistentVolumeClaim that the driver uses.
type Claim struct {
	Namespace, Name string
	Class           string // "" if it names none
	Annotations     map[string]string
	UID             string
}

// Claim reads a claim. It returns nil if the claim does not exist.
func (k *API) Claim(ctx context.Context, namespace, name string) (*Claim, error) {
	ctx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	claim, err := k.client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, agentapi.Errorf(agentapi.Unavailable, "read claim %s/%s: %w", namespace, name, err)
	}
	out := &Claim{Namespace: namespace, Name: name, UID: string(claim.UID), Annotations: claim.Annotations, Class: claim.Annotations[corev1.BetaStorageClassAnnotation]}
	if claim.Spec.StorageClassName != nil {
		out.Class = *claim.Spec.StorageClassName
	}
	return out, nil
}

// NodeKnown looks for a node that runs the driver. For a node that has just joined, it also asks
// the API.
func (k *API) NodeKnown(ctx context.Context, node id.Node) (bool, error) {
	found, err := k.nodes.GetIndexer().ByIndex(byNodeName, node.Name)
	if err != nil || len(found) > 0 {
		return len(found) > 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	_, err = k.client.CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return false, nil
	case err != nil:
		return false, agentapi.Errorf(agentapi.Unavailable, "read node %s: %w", node.Name, err)
	}
	return true, nil
}

func (k *API) classIndex(object any) ([]string, error) {
	if c, ok := object.(*storagev1.StorageClass); ok && c.Provisioner == k.driver {
		return []string{id.ClassKey(c.Name)}, nil
	}
	return nil, nil
}

func (k *API) handleIndex(object any) ([]string, error) {
	if pv, ok := k.ours(object); ok {
		return []string{pv.Spec.CSI.VolumeHandle}, nil
	}
	return nil, nil
}

// idIndex indexes by a part of the volume IDs of this driver.
func (k *API) idIndex(part func(id.Volume) string) cache.IndexFunc {
	return func(object any) ([]string, error) {
		pv, ok := k.ours(object)
		if !ok {
			return nil, nil
		}
		// A PersistentVolume that a user wrote may have a handle of another format.
		if v, err := id.ParseVolume(pv.Spec.CSI.VolumeHandle); err == nil {
			return []string{part(v)}, nil
		}
		return nil, nil
	}
}

func classOf(v id.Volume) string { return v.Class }
func nameOf(v id.Volume) string  { return v.Name }

func (k *API) ours(object any) (*corev1.PersistentVolume, bool) {
	pv, ok := object.(*corev1.PersistentVolume)
	return pv, ok && pv.Spec.CSI != nil && pv.Spec.CSI.Driver == k.driver
}

func (k *API) nodeIndex(object any) ([]string, error) {
	node, ok := object.(*storagev1.CSINode)
	if !ok {
		return nil, nil
	}
	for _, driver := range node.Spec.Drivers {
		if driver.Name == k.driver {
			name, _, _ := strings.Cut(driver.NodeID, "|")
			return []string{name}, nil
		}
	}
	return nil, nil
}

// Classes returns the StorageClasses, by name.
func (k *API) Classes() []*storagev1.StorageClass {
	return byName(slices.DeleteFunc(typed[*storagev1.StorageClass](k.classes.GetIndexer().List(), nil),
		func(c *storagev1.StorageClass) bool { return c.Provisioner != k.driver }))
}

// ClassesOf returns the StorageClasses with a key (id.ClassKey), by name.
func (k *API) ClassesOf(key string) []*storagev1.StorageClass {
	return byName(typed[*storagev1.StorageClass](k.classes.GetIndexer().ByIndex(byClassKey, key)))
}

// ClassKeys returns the keys of the classes of all volumes.
func (k *API) ClassKeys() []string { return k.volumes.GetIndexer().ListIndexFuncValues(byClassKey) }

// VolumesOf returns the PersistentVolumes of a class, by name.
func (k *API) VolumesOf(key string) []*corev1.PersistentVolume { return k.volumesBy(byClassKey, key) }

// VolumesWithHandle returns the PersistentVolumes with a volume ID, by name.
func (k *API) VolumesWithHandle(handle string) []*corev1.PersistentVolume {
	return k.volumesBy(byHandle, handle)
}

// VolumesCalled returns the PersistentVolumes whose volume has this name on its agent, by their own
// name.
func (k *API) VolumesCalled(name string) []*corev1.PersistentVolume {
	return k.volumesBy(byVolumeName, name)
}

func (k *API) volumesBy(index, key string) []*corev1.PersistentVolume {
	return byName(typed[*corev1.PersistentVolume](k.volumes.GetIndexer().ByIndex(index, key)))
}

// typed casts the result of an index. The only error is an index that does not exist.
func typed[T any](objects []any, err error) []T {
	if err != nil {
		return nil
	}
	out := make([]T, 0, len(objects))
	for _, object := range objects {
		if t, ok := object.(T); ok {
			out = append(out, t)
		}
	}
	return out
}

func byName[T metav1.Object](objects []T) []T {
	slices.SortFunc(objects, func(a, b T) int { return strings.Compare(a.GetName(), b.GetName()) })
	return objects
}

// withoutManagedFields drops the managed fields, which the driver does not use. They are often the
// larger half of an object in memory.
func withoutManagedFields(object any) (any, error) {
	if accessor, err := meta.Accessor(object); err == nil { // the tombstone of a missed delete has no metadata
		accessor.SetManagedFields(nil)
	}
	return object, nil
}
