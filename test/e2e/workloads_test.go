package e2e

import (
	"fmt"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/e2e/cluster"
)

// TestStatefulSet rolls a set over, and moves a pod to another node. Each pod keeps its data.
func TestStatefulSet(t *testing.T) {
	s := newScenario(t)
	replicas := int32(2)
	template := s.podObject("set", "", onNode("node-1"), runningShell("echo $HOSTNAME >> /data/log; sync"))
	template.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "set"}, Spec: appsv1.StatefulSetSpec{
		Replicas: &replicas, ServiceName: "set", PodManagementPolicy: appsv1.ParallelPodManagement,
		Selector: &metav1.LabelSelector{MatchLabels: template.Labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: template.Labels}, Spec: template.Spec},
		VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("64Mi")}},
		}}},
	}}
	_, err := s.client.AppsV1().StatefulSets(s.namespace).Create(s.ctx, set, metav1.CreateOptions{})
	assert.NilError(t, err)
	s.ready("set-0")
	s.ready("set-1")

	timed(t, "stateful set rolled to the other node", func() {
		s.kubectl("patch", "statefulset", "set", "--type=merge", "-p", fmt.Sprintf(`{"spec":{"template":{"spec":{"nodeSelector":{%q:"node-2"}}}}}`, corev1.LabelHostname))
		s.kubectl("rollout", "status", "statefulset/set", "--timeout=180s")
	})
	for _, pod := range []string{"set-0", "set-1"} {
		assert.Equal(t, s.ready(pod).Spec.NodeName, "node-2")
		assert.Equal(t, s.sh(pod, "cat /data/log"), pod+"\n"+pod)
	}
}

// TestStorageCapacity: capacity objects appear, and the scheduler uses them.
func TestStorageCapacity(t *testing.T) {
	s := newScenario(t)
	s.eventually("a capacity object tells the pool's space", func() error {
		list, err := s.client.StorageV1().CSIStorageCapacities(cluster.Namespace).List(s.ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, c := range list.Items {
			if c.StorageClassName == "btrfs-late" && c.Capacity != nil && c.Capacity.Value() > 1<<30 && c.Capacity.Value() < 20<<30 {
				return nil
			}
		}
		return fmt.Errorf("there are %d: %v", len(list.Items), list.Items)
	})
	s.claim("huge", ofClass("btrfs-late"), ofSize("1Ti"))
	s.pod("huge", "huge")
	s.eventually("the scheduler finds no room", func() error {
		pod, err := s.client.CoreV1().Pods(s.namespace).Get(s.ctx, "huge", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range pod.Status.Conditions {
			if c.Reason == corev1.PodReasonUnschedulable && strings.Contains(c.Message, "did not have enough free storage") {
				return nil
			}
		}
		return fmt.Errorf("conditions %v", pod.Status.Conditions)
	})
	s.claim("small", ofClass("btrfs-late"))
	s.pod("small", "small")
	s.ready("small")
}
