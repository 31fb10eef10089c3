package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/e2e/cluster"
)

// scenario is a test with a separate namespace in the cluster, which is emptied at its end.
type scenario struct {
	*testing.T
	ctx       context.Context
	cluster   *cluster.Cluster
	client    kubernetes.Interface
	namespace string
}

// patience limits a wait for Kubernetes. Scenarios that need longer set their limits. A pod starts
// in seconds, but can take more than a minute if other guests share this machine's CPUs.
const patience = 4 * time.Minute

func newScenario(t *testing.T) *scenario {
	t.Helper()
	s := &scenario{T: t, ctx: context.Background(), cluster: running, client: running.Client}
	namespace, err := s.client.CoreV1().Namespaces().Create(s.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-"}}, metav1.CreateOptions{})
	assert.NilError(t, err)
	s.namespace = namespace.Name
	begin := time.Now()
	t.Cleanup(func() { recordScenario(t, begin) })
	t.Cleanup(s.cleanup)
	return s
}

// cleanup deletes the objects of the scenario and waits until its volumes are gone: a volume that
// stays is a leak.
func (s *scenario) cleanup() {
	if s.Failed() {
		s.explain()
	}
	background := metav1.DeletePropagationBackground
	err := s.client.CoreV1().Namespaces().Delete(s.ctx, s.namespace, metav1.DeleteOptions{PropagationPolicy: &background})
	assert.Check(s, err)
	// A node that was lost first has to synchronize with the API server.
	s.within(2*patience, "namespace and volumes are gone", func() error {
		if _, err := s.client.CoreV1().Namespaces().Get(s.ctx, s.namespace, metav1.GetOptions{}); err == nil {
			return fmt.Errorf("namespace %s is there", s.namespace)
		}
		for _, pv := range s.volumes() {
			if pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete {
				return fmt.Errorf("volume %s is %s", pv.Name, pv.Status.Phase)
			}
		}
		return nil
	})
}

// explain logs the cluster's information about a failure.
func (s *scenario) explain() {
	for _, what := range []string{"pods,pvc,volumesnapshots", "events"} {
		out, err := s.cluster.Kubectl(s.ctx, "-n", s.namespace, "get", what, "-o", "wide")
		s.Logf("%s %v", out, err)
	}
	out, err := s.cluster.Storage("sh", "-c", "tail -n +1 /proc/net/rpc/auth.unix.ip/content /proc/net/rpc/nfsd.fh/content /proc/net/rpc/nfsd.export/content")
	s.Logf("what the NFS server knows: %s %v", out, err)
}

// volumes returns the PersistentVolumes of the scenario's claims.
func (s *scenario) volumes() []corev1.PersistentVolume {
	list, err := s.client.CoreV1().PersistentVolumes().List(s.ctx, metav1.ListOptions{})
	if err != nil {
		return []corev1.PersistentVolume{{ObjectMeta: metav1.ObjectMeta{Name: err.Error()}}}
	}
	var out []corev1.PersistentVolume
	for _, pv := range list.Items {
		if pv.Spec.ClaimRef != nil && pv.Spec.ClaimRef.Namespace == s.namespace {
			out = append(out, pv)
		}
	}
	return out
}

// eventually waits until f returns no error. It works after the test's end.
func (s *scenario) eventually(what string, f func() error) {
	s.Helper()
	s.within(patience, what, f)
}

func (s *scenario) within(most time.Duration, what string, f func() error) {
	s.Helper()
	poll.WaitOn(s, func(poll.LogT) poll.Result {
		if err := f(); err != nil {
			return poll.Continue("%s: %v", what, err)
		}
		return poll.Success()
	}, poll.WithTimeout(most), poll.WithDelay(100*time.Millisecond))
}

// kubectl runs kubectl in the scenario's namespace.
func (s *scenario) kubectl(args ...string) string {
	s.Helper()
	out, err := s.cluster.Kubectl(s.ctx, append([]string{"-n", s.namespace}, args...)...)
	assert.NilError(s, err)
	return out
}

// sh runs a shell command in a pod's container.
func (s *scenario) sh(pod, command string) string {
	s.Helper()
	out, err := s.try(pod, command)
	assert.NilError(s, err)
	return out
}

func (s *scenario) try(pod, command string) (string, error) {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	out, err := s.cluster.Kubectl(ctx, "-n", s.namespace, "exec", pod, "--", "sh", "-c", command)
	return strings.TrimSpace(out), err
}

// create creates an object of one of the snapshot CRDs, which client-go does not know.
func (s *scenario) create(resource schema.GroupVersionResource, kind, name string, spec map[string]any) {
	s.Helper()
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": resource.GroupVersion().String(), "kind": kind,
		"metadata": map[string]any{"name": name}, "spec": spec,
	}}
	_, err := s.cluster.Dynamic.Resource(resource).Namespace(s.namespace).Create(s.ctx, object, metav1.CreateOptions{})
	assert.NilError(s, err)
}

func errorOf(volumes []corev1.PersistentVolume) error {
	var names []string
	for _, pv := range volumes {
		names = append(names, fmt.Sprintf("%s (%s)", pv.Name, pv.Status.Phase))
	}
	return fmt.Errorf("there are %s", strings.Join(names, ", "))
}
