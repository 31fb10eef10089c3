package e2e

import (
	"fmt"

	"gotest.tools/v3/assert"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/e2e/cluster"
)

const busybox = "docker.io/library/busybox:1.37"

// claimOption changes a claim before it is created.
type claimOption func(*corev1.PersistentVolumeClaim)

func ofClass(name string) claimOption {
	return func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = &name }
}

func ofSize(size string) claimOption {
	return func(c *corev1.PersistentVolumeClaim) {
		c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
	}
}

func withMode(mode corev1.PersistentVolumeAccessMode) claimOption {
	return func(c *corev1.PersistentVolumeClaim) { c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{mode} }
}

func fromSnapshot(name string) claimOption {
	group := snapshots.Group
	return func(c *corev1.PersistentVolumeClaim) {
		c.Spec.DataSource = &corev1.TypedLocalObjectReference{APIGroup: &group, Kind: "VolumeSnapshot", Name: name}
	}
}

func fromClaim(name string) claimOption {
	return func(c *corev1.PersistentVolumeClaim) {
		c.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: name}
	}
}

// claim creates a claim of 64 MiB, ReadWriteMany, of the class that every installation has.
func (s *scenario) claim(name string, options ...claimOption) {
	s.Helper()
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, option := range append([]claimOption{ofClass(cluster.ClassName), ofSize("64Mi"), withMode(corev1.ReadWriteMany)}, options...) {
		option(c)
	}
	_, err := s.client.CoreV1().PersistentVolumeClaims(s.namespace).Create(s.ctx, c, metav1.CreateOptions{})
	assert.NilError(s, err)
}

func (s *scenario) bound(name string) *corev1.PersistentVolumeClaim {
	s.Helper()
	var claim *corev1.PersistentVolumeClaim
	s.eventually("claim "+name+" is bound", func() (err error) {
		claim, err = s.client.CoreV1().PersistentVolumeClaims(s.namespace).Get(s.ctx, name, metav1.GetOptions{})
		if err == nil && claim.Status.Phase != corev1.ClaimBound {
			err = fmt.Errorf("it is %s", claim.Status.Phase)
		}
		return err
	})
	return claim
}

// resize requests a larger size and waits until the claim's status has it.
func (s *scenario) resize(name, size string) {
	s.Helper()
	s.startResize(name, size)
	s.resized(name, size)
}

func (s *scenario) startResize(name, size string) {
	s.Helper()
	s.patchClaim(name, fmt.Sprintf(`{"spec":{"resources":{"requests":{"storage":%q}}}}`, size))
}

func (s *scenario) resized(name, size string) {
	s.Helper()
	want := resource.MustParse(size)
	s.eventually("claim "+name+" has "+size, func() error {
		claim, err := s.client.CoreV1().PersistentVolumeClaims(s.namespace).Get(s.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if has := claim.Status.Capacity[corev1.ResourceStorage]; has.Cmp(want) < 0 {
			return fmt.Errorf("it has %s", has.String())
		}
		return nil
	})
}

func (s *scenario) patchClaim(name, patch string) {
	s.Helper()
	_, err := s.client.CoreV1().PersistentVolumeClaims(s.namespace).Patch(s.ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	assert.NilError(s, err)
}

// podOption changes a pod before it is created.
type podOption func(*corev1.Pod)

func onNode(name string) podOption {
	return func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: name} }
}

func runningShell(command string) podOption {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Command = []string{"sh", "-c", "trap 'exit 0' TERM; " + command + "; while :; do sleep 1; done"}
	}
}

// asUser runs the pod without root, with a group for its volumes.
func asUser(uid, fsGroup int64) podOption {
	return func(p *corev1.Pod) {
		yes := true
		p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &uid, RunAsGroup: &uid, RunAsNonRoot: &yes, FSGroup: &fsGroup}
	}
}

// pod creates a pod that mounts a claim at /data and sleeps.
func (s *scenario) pod(name, claim string, options ...podOption) {
	s.Helper()
	p := s.podObject(name, claim, options...)
	_, err := s.client.CoreV1().Pods(s.namespace).Create(s.ctx, p, metav1.CreateOptions{})
	assert.NilError(s, err)
}

func (s *scenario) podObject(name, claim string, options ...podOption) *corev1.Pod {
	no, second := false, int64(1)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"e2e": name}}, Spec: corev1.PodSpec{
		AutomountServiceAccountToken: &no, TerminationGracePeriodSeconds: &second,
		Containers: []corev1.Container{{Name: "main", Image: busybox, ImagePullPolicy: corev1.PullNever}},
	}}
	runningShell("true")(p)
	if claim != "" {
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
		p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim},
		}}}
	}
	for _, option := range options {
		option(p)
	}
	return p
}

func (s *scenario) ready(name string) *corev1.Pod {
	s.Helper()
	var pod *corev1.Pod
	s.eventually("pod "+name+" is ready", func() (err error) {
		pod, err = s.client.CoreV1().Pods(s.namespace).Get(s.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, condition := range pod.Status.Conditions {
			if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("it is %s", pod.Status.Phase)
	})
	return pod
}

// deletePod waits until the pod and its mounts are gone.
func (s *scenario) deletePod(name string) {
	s.Helper()
	assert.NilError(s, s.client.CoreV1().Pods(s.namespace).Delete(s.ctx, name, metav1.DeleteOptions{}))
	s.eventually("pod "+name+" is gone", func() error {
		if _, err := s.client.CoreV1().Pods(s.namespace).Get(s.ctx, name, metav1.GetOptions{}); err == nil {
			return fmt.Errorf("it is there")
		}
		return nil
	})
}

var snapshots = schema.GroupVersionResource{Group: "snapshot.storage.k8s.io", Version: "v1", Resource: "volumesnapshots"}

// snapshot creates a VolumeSnapshot and waits until it is ready.
func (s *scenario) snapshot(name, claim string) {
	s.Helper()
	s.startSnapshot(name, claim)
	s.snapshotReady(name)
}

func (s *scenario) startSnapshot(name, claim string) {
	s.Helper()
	s.create(snapshots, "VolumeSnapshot", name, map[string]any{
		"volumeSnapshotClassName": "btrfs", "source": map[string]any{"persistentVolumeClaimName": claim},
	})
}

func (s *scenario) snapshotReady(name string) {
	s.Helper()
	s.eventually("snapshot "+name+" is ready", func() error {
		object, err := s.cluster.Dynamic.Resource(snapshots).Namespace(s.namespace).Get(s.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		status, _ := object.Object["status"].(map[string]any)
		if ready, _ := status["readyToUse"].(bool); !ready {
			return fmt.Errorf("status %v", status)
		}
		return nil
	})
}
