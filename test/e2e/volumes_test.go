package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/e2e/cluster"
)

// TestLateBinding: with WaitForFirstConsumer, the volume is created when a pod needs it, not
// before.
func TestLateBinding(t *testing.T) {
	s := newScenario(t)
	s.claim("late", ofClass("btrfs-late"))
	s.claim("early")
	s.bound("early")
	late, err := s.client.CoreV1().PersistentVolumeClaims(s.namespace).Get(s.ctx, "late", metav1.GetOptions{})
	assert.NilError(t, err)
	assert.Equal(t, late.Status.Phase, corev1.ClaimPending)
	s.pod("user", "late", onNode("node-2"))
	s.ready("user")
	s.bound("late")
}

// TestReadOnlyMany: a volume with data is cloned for readers, which cannot write to it.
func TestReadOnlyMany(t *testing.T) {
	s := newScenario(t)
	s.claim("source", withMode(corev1.ReadWriteOnce))
	s.pod("writer", "source", runningShell("echo text > /data/file"))
	s.ready("writer")
	s.claim("copy", withMode(corev1.ReadOnlyMany), fromClaim("source"))
	for i, node := range []string{"node-1", "node-2"} {
		s.pod(fmt.Sprint("reader-", i), "copy", onNode(node), func(p *corev1.Pod) {
			p.Spec.Volumes[0].PersistentVolumeClaim.ReadOnly = true
		})
	}
	for i := range 2 {
		reader := fmt.Sprint("reader-", i)
		s.ready(reader)
		assert.Equal(t, s.sh(reader, "cat /data/file"), "text")
		_, err := s.try(reader, "echo more >> /data/file")
		assert.ErrorContains(t, err, "Read-only file system")
	}
}

// TestReadWriteOnce: a pod on another node waits until the volume is free.
func TestReadWriteOnce(t *testing.T) {
	s := newScenario(t)
	s.claim("single", withMode(corev1.ReadWriteOnce))
	s.pod("first", "single", onNode("node-1"), runningShell("echo text > /data/file"))
	s.ready("first")
	s.pod("second", "single", onNode("node-2"))
	s.eventually("the second node is refused", func() error {
		events, err := s.client.CoreV1().Events(s.namespace).List(s.ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=second"})
		if err != nil {
			return err
		}
		for _, e := range events.Items {
			if e.Reason == "FailedAttachVolume" && strings.Contains(e.Message, "Multi-Attach error") {
				return nil
			}
		}
		return fmt.Errorf("there are %d events", len(events.Items))
	})
	s.deletePod("first")
	s.ready("second")
	assert.Equal(t, s.sh("second", "cat /data/file"), "text")
}

// TestReadWriteOncePod: one pod has the volume. Another waits until the first is gone.
func TestReadWriteOncePod(t *testing.T) {
	s := newScenario(t)
	s.claim("single", withMode(corev1.ReadWriteOncePod))
	s.pod("first", "single", onNode("node-1"))
	s.ready("first")
	s.pod("second", "single", onNode("node-1"))
	s.eventually("the scheduler holds the second pod back", func() error {
		pod, err := s.client.CoreV1().Pods(s.namespace).Get(s.ctx, "second", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonUnschedulable && strings.Contains(c.Message, "ReadWriteOncePod") {
				return nil
			}
		}
		return fmt.Errorf("conditions %v", pod.Status.Conditions)
	})
	s.deletePod("first")
	s.ready("second")
}

// TestGroup: pods without root write with their fsGroup, and files get that group.
func TestGroup(t *testing.T) {
	s := newScenario(t)
	s.claim("shared")
	s.pod("one", "shared", onNode("node-1"), asUser(1001, 4242))
	s.pod("two", "shared", onNode("node-2"), asUser(1002, 4242))
	s.ready("one")
	s.ready("two")
	s.sh("one", "umask 002; mkdir /data/dir; echo one > /data/dir/file")
	assert.Equal(t, s.sh("one", "stat -c %u:%g /data/dir/file"), "1001:4242")
	s.sh("two", "echo two >> /data/dir/file")
	assert.Equal(t, s.sh("one", "cat /data/dir/file"), "one\ntwo")
	// A third pod without their groups has no access.
	s.pod("other", "shared", onNode("node-2"), func(p *corev1.Pod) {
		uid := int64(1003)
		p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &uid, RunAsGroup: &uid}
	})
	s.ready("other")
	_, err := s.try("other", "ls /data")
	assert.ErrorContains(t, err, "Permission denied")
}

// TestSubPath: two containers see separate directories of one volume.
func TestSubPath(t *testing.T) {
	s := newScenario(t)
	s.claim("data")
	s.pod("pod", "data", func(p *corev1.Pod) {
		second := *p.Spec.Containers[0].DeepCopy()
		second.Name = "second"
		p.Spec.Containers[0].VolumeMounts[0].SubPath = "a/deep"
		second.VolumeMounts[0].SubPath = "b"
		p.Spec.Containers = append(p.Spec.Containers, second)
	})
	s.ready("pod")
	s.kubectl("exec", "pod", "-c", "main", "--", "sh", "-c", "echo a > /data/file")
	s.kubectl("exec", "pod", "-c", "second", "--", "sh", "-c", "echo b > /data/file")
	s.pod("all", "data")
	s.ready("all")
	assert.Equal(t, s.sh("all", "cat /data/a/deep/file /data/b/file"), "a\nb")
}

// TestExpandWhileWriting: a pod that writes beyond the old limit continues during the expansion,
// with all its data.
func TestExpandWhileWriting(t *testing.T) {
	s := newScenario(t)
	s.claim("data", ofSize("64Mi"))
	// Each line is written before the next. A write that reaches the limit is retried.
	s.pod("writer", "data", runningShell("i=0; while [ $i -lt 40 ]; do dd if=/dev/zero of=/data/f$i bs=1M count=4 conv=fsync 2>/dev/null && i=$((i+1)) && echo $i > /tmp/done || sleep 0.2; done"))
	s.eventually("the writer writes", func() error {
		_, err := s.try("writer", "[ $(cat /tmp/done) -ge 5 ]")
		return err
	})
	s.resize("data", "512Mi")
	s.eventually("the writer has written all", func() error {
		_, err := s.try("writer", "[ $(cat /tmp/done) = 40 ]")
		return err
	})
	assert.Equal(t, s.sh("writer", "du -sm /data | cut -f1"), "160")
}

// TestCloneAcrossSize: a larger clone has the data and the larger limit.
func TestCloneAcrossSize(t *testing.T) {
	s := newScenario(t)
	s.claim("source", ofSize("64Mi"))
	s.pod("writer", "source", runningShell("echo text > /data/file"))
	s.ready("writer")
	s.claim("clone", ofSize("256Mi"), fromClaim("source"))
	claim := s.bound("clone")
	size := claim.Status.Capacity[corev1.ResourceStorage]
	assert.Equal(t, size.String(), "256Mi")
	s.pod("reader", "clone")
	s.ready("reader")
	assert.Equal(t, s.sh("reader", "cat /data/file"), "text")
	s.sh("reader", "dd if=/dev/zero of=/data/big bs=1M count=128 conv=fsync")
	s.sh("reader", "echo clone > /data/file")
	assert.Equal(t, s.sh("writer", "cat /data/file"), "text")
}

// TestRetain: with Retain, the volume outlives its claim. A static volume can adopt it with its
// data.
func TestRetain(t *testing.T) {
	s := newScenario(t)
	s.claim("kept", ofClass("btrfs-keep"))
	s.pod("writer", "kept", runningShell("echo precious > /data/file"))
	s.ready("writer")
	old := s.volumes()[0]
	s.deletePod("writer")
	s.forget("kept", old.Name)

	// A static volume, as an administrator writes it, with handle, attributes and secret of the old
	// one.
	static := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: s.namespace + "-static"},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: old.Spec.AccessModes, Capacity: old.Spec.Capacity, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			StorageClassName:       "btrfs-keep",
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: old.Spec.CSI},
			ClaimRef:               &corev1.ObjectReference{Namespace: s.namespace, Name: "adopted"},
		},
	}
	_, err := s.client.CoreV1().PersistentVolumes().Create(s.ctx, static, metav1.CreateOptions{})
	assert.NilError(t, err)
	s.claim("adopted", ofClass("btrfs-keep"), func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = static.Name })
	s.pod("reader", "adopted")
	s.ready("reader")
	assert.Equal(t, s.sh("reader", "cat /data/file"), "precious")
}

// forget deletes a claim and its volume, which has Retain, from Kubernetes.
func (s *scenario) forget(claim, volume string) {
	s.Helper()
	s.kubectl("delete", "pvc", claim, "--timeout="+patience.String())
	s.eventually("the volume is released", func() error {
		pv, err := s.client.CoreV1().PersistentVolumes().Get(s.ctx, volume, metav1.GetOptions{})
		if err == nil && pv.Status.Phase != corev1.VolumeReleased {
			err = fmt.Errorf("it is %s", pv.Status.Phase)
		}
		return err
	})
	s.kubectl("delete", "pv", volume, "--timeout="+patience.String())
}

// TestAdoption: the output of `volume adopt-manifest` restores a volume whose objects Kubernetes
// has lost, as in docs/upgrade.md. The volume is equivalent to one of a claim: nodes mount it, it
// grows, and it can be deleted once its policy is Delete.
func TestAdoption(t *testing.T) {
	s := newScenario(t)
	s.claim("db")
	s.pod("writer", "db", onNode("node-1"), runningShell("echo precious > /data/file"))
	s.ready("writer")
	old := s.volumes()[0]
	s.kubectl("patch", "pv", old.Name, "--patch", `{"spec":{"persistentVolumeReclaimPolicy":"Retain"}}`)
	s.deletePod("writer")
	s.forget("db", old.Name)

	manifests, err := s.cluster.AgentCommand(s.ctx, "volume", "adopt-manifest", old.Name,
		"--class", cluster.ClassName, "--agent-url", cluster.AgentURL, "--claim", s.namespace+"/shop-db")
	assert.NilError(t, err)
	file := filepath.Join(t.TempDir(), "manifests.yaml")
	assert.NilError(t, os.WriteFile(file, []byte(manifests), 0o600))
	timed(t, "adopted volume bound", func() {
		s.kubectl("apply", "--validate=strict", "--warnings-as-errors", "-f", file)
		s.bound("shop-db")
	})
	adopted := s.volumes()[0]
	assert.Equal(t, adopted.Spec.CSI.VolumeHandle, old.Spec.CSI.VolumeHandle)
	assert.Equal(t, adopted.Spec.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimRetain)
	s.pod("reader", "shop-db", onNode("node-2"))
	s.ready("reader")
	assert.Equal(t, s.sh("reader", "cat /data/file"), "precious")
	s.resize("shop-db", "128Mi")
	grown, err := s.cluster.AgentCommand(s.ctx, "volume", "get", old.Name, "-o", "json")
	assert.NilError(t, err)
	assert.Assert(t, is.Contains(grown, fmt.Sprintf(`"size_bytes": %d`, 128<<20)))

	s.kubectl("patch", "pv", adopted.Name, "--patch", `{"spec":{"persistentVolumeReclaimPolicy":"Delete"}}`)
	s.deletePod("reader")
	s.kubectl("delete", "pvc", "shop-db", "--timeout="+patience.String())
	s.eventually("the volume is gone from the storage, too", func() error {
		if left := s.volumes(); len(left) > 0 {
			return errorOf(left)
		}
		_, err := s.cluster.Storage("test", "!", "-e", "/srv/btrfs/e2e/"+old.Name)
		return err
	})
}

// TestEphemeral: an ephemeral volume is created and deleted with its pod.
func TestEphemeral(t *testing.T) {
	s := newScenario(t)
	s.pod("pod", "", func(p *corev1.Pod) {
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "scratch", MountPath: "/data"}}
		p.Spec.Volumes = []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{
			VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("64Mi")}},
			}},
		}}}}
	})
	s.ready("pod")
	s.sh("pod", "echo text > /data/file")
	s.deletePod("pod")
	s.eventually("the volume went with the pod", func() error {
		if left := s.volumes(); len(left) > 0 {
			return errorOf(left)
		}
		return nil
	})
}

// TestKubeletSeesTheQuota: volume metrics show the volume's limit and usage, not those of the pool.
func TestKubeletSeesTheQuota(t *testing.T) {
	s := newScenario(t)
	s.claim("data", ofSize("64Mi"))
	s.pod("pod", "data", onNode("node-1"), runningShell("dd if=/dev/zero of=/data/f bs=1M count=16 conv=fsync"))
	s.ready("pod")
	s.eventually("the kubelet's metrics show the quota", func() error {
		metrics, err := s.cluster.Kubectl(s.ctx, "get", "--raw", "/api/v1/nodes/node-1/proxy/metrics")
		if err != nil {
			return err
		}
		capacity, used := metricOf(metrics, "kubelet_volume_stats_capacity_bytes", s.namespace), metricOf(metrics, "kubelet_volume_stats_used_bytes", s.namespace)
		if capacity != 64<<20 || used < 16<<20 || used > 20<<20 {
			return fmt.Errorf("capacity %.0f, used %.0f", capacity, used)
		}
		return nil
	})
}

// metricOf returns the value of a metric for claim "data" of a namespace, -1 if there is none.
func metricOf(text, name, namespace string) float64 {
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, name+"{") || !strings.Contains(line, `namespace="`+namespace+`"`) {
			continue
		}
		var value float64
		if _, err := fmt.Sscan(line[strings.LastIndex(line, "}")+1:], &value); err == nil {
			return value
		}
	}
	return -1
}

// TestErrorsReachTheOwner: the claim's events report errors of a class.
func TestErrorsReachTheOwner(t *testing.T) {
	for class, words := range map[string][]string{
		"wrong-token": {cluster.AgentURL, "the token is not known"},
		"no-agent":    {"http://10.77.0.200:8080", "cannot reach the agent"},
	} {
		t.Run(class, func(t *testing.T) {
			s := newScenario(t)
			s.claim("never", ofClass(class))
			said := s.provisioningFailure()
			t.Log(said)
			for _, word := range words {
				assert.Check(t, is.Contains(said, word))
			}
			assert.Check(t, !strings.Contains(said, "not-the-token"), "the token is in the event")
		})
	}
}

// provisioningFailure waits for the provisioner's error event for a claim.
func (s *scenario) provisioningFailure() string {
	s.Helper()
	var said string
	s.eventually("an event tells the reason", func() error {
		events, err := s.client.CoreV1().Events(s.namespace).List(s.ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, e := range events.Items {
			if e.Reason == "ProvisioningFailed" {
				said = e.Message
				return nil
			}
		}
		return fmt.Errorf("there are %d events", len(events.Items))
	})
	return said
}

// TestVolumeAttributesClass: another class changes a volume in use, and affects later writes. A
// claim that names a class gets it from the start, if csi-provisioner is 6 or newer.
func TestVolumeAttributesClass(t *testing.T) {
	s := newScenario(t)
	s.claim("data")
	s.pod("writer", "data", runningShell("echo text > /data/file"))
	s.ready("writer")
	assert.Equal(t, s.compression("data"), "")
	timed(t, "volume modified in use", func() {
		s.patchClaim("data", `{"spec":{"volumeAttributesClassName":"e2e-compressed"}}`)
		s.hasAttributes("data", "e2e-compressed")
	})
	assert.Assert(t, is.Contains(s.compression("data"), "zstd"))
	assert.Equal(t, s.sh("writer", "cat /data/file"), "text")

	class := "e2e-compressed"
	s.claim("made", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeAttributesClassName = &class })
	if !*newestSidecars {
		assert.Assert(t, is.Contains(s.provisioningFailure(), "could not find the requested resource"))
		return
	}
	s.hasAttributes("made", class)
	assert.Assert(t, is.Contains(s.compression("made"), "zstd"))
}

// hasAttributes waits until a claim's volume has the properties of a class.
func (s *scenario) hasAttributes(claim, class string) {
	s.Helper()
	s.eventually("the claim has its class "+class, func() error {
		c, err := s.client.CoreV1().PersistentVolumeClaims(s.namespace).Get(s.ctx, claim, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if now := c.Status.CurrentVolumeAttributesClassName; now == nil || *now != class {
			return fmt.Errorf("status %v", c.Status)
		}
		return nil
	})
}

// compression returns the property of the volume's data on the storage host.
func (s *scenario) compression(claim string) string {
	s.Helper()
	out, err := s.cluster.Storage("btrfs", "property", "get", "/srv/btrfs/e2e/"+s.bound(claim).Spec.VolumeName+"/data", "compression")
	assert.NilError(s, err)
	return out
}
