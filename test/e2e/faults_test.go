package e2e

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/e2e/cluster"
)

// count is a shell program that appends one number after the other to a file, each made durable. It does not replace the file by
// a new one each time: a server that delegates files (RFC 8881, section 10.4) would recall each from this client, by which time
// the name stands for the next, and a reader elsewhere would wait for ever. Nor does it use sync(1), which in this cluster waits
// for the mounts of all nodes, as they share a kernel.
const count = "i=0; while :; do i=$((i+1)); echo $i | dd of=/data/$HOSTNAME oflag=append conv=notrunc,fsync 2>/dev/null; sleep 0.1; done"

// counted is how far a counting pod has come, as another pod sees it.
func (s *scenario) counted(viewer, pod string) int {
	s.Helper()
	n, err := strconv.Atoi(s.sh(viewer, "tail -n 1 /data/"+pod+" 2>/dev/null || echo 0"))
	assert.NilError(s, err)
	return n
}

// goesOn waits until a counting pod counts further than now.
func (s *scenario) goesOn(viewer, pod string) {
	s.Helper()
	from := s.counted(viewer, pod)
	s.eventually(pod+" goes on writing", func() error {
		if now := s.counted(viewer, pod); now <= from+2 {
			return fmt.Errorf("from %d to %d", from, now)
		}
		return nil
	})
}

// TestRestarts restarts one part after the other, under pods that write and while volumes come and go.
func TestRestarts(t *testing.T) {
	s := newScenario(t)
	s.claim("data")
	s.pod("writer", "data", onNode("node-1"), runningShell(count))
	s.pod("viewer", "data", onNode("node-2"))
	s.ready("writer")
	s.ready("viewer")
	node, replica := s.cluster.Nodes[0], s.cluster.Replicas[0]
	restart := func(p *cluster.Process) func() {
		return func() {
			p.Kill()
			assert.NilError(t, p.Start())
		}
	}
	for i, part := range []struct {
		name    string
		restart func()
	}{
		{"agent", restart(s.cluster.Agent)},
		{"controller", restart(replica.Process("controller"))},
		{"provisioner", restart(replica.Process("csi-provisioner"))},
		{"attacher", restart(replica.Process("csi-attacher"))},
		{"resizer", restart(replica.Process("csi-resizer"))},
		{"snapshotter", restart(replica.Process("csi-snapshotter"))},
		{"node driver", restart(node.Driver)},
		{"kubelet", restart(node.Kubelet)},
		{"NFS server", func() {
			assert.NilError(t, s.cluster.StopNFS())
			assert.NilError(t, s.cluster.StartNFS())
		}},
	} {
		t.Run(part.name, func(t *testing.T) {
			claim, pod, snapshot := fmt.Sprint("claim-", i), fmt.Sprint("pod-", i), fmt.Sprint("snap-", i)
			s.claim(claim)
			s.startSnapshot(snapshot, "data")
			part.restart()
			timed(t, "after the "+part.name+"'s restart: pod ready", func() {
				s.pod(pod, claim, onNode("node-1"))
				s.ready(pod)
			})
			s.sh(pod, "echo text > /data/file && sync")
			s.goesOn("viewer", "writer")
			s.snapshotReady(snapshot)
			s.resize(claim, "80Mi")
			s.deletePod(pod)
			s.kubectl("delete", "pvc", claim, "--wait=false")
		})
	}
	writer, err := s.client.CoreV1().Pods(s.namespace).Get(s.ctx, "writer", metav1.GetOptions{})
	assert.NilError(t, err)
	assert.Equal(t, writer.Status.ContainerStatuses[0].RestartCount, int32(0))
}

// outOfService is the taint by which an administrator tells that a node is dead (kubernetes.io, "Non-graceful node shutdown").
const outOfService = `{"spec":{"taints":[{"key":"node.kubernetes.io/out-of-service","value":"nodeshutdown","effect":"NoExecute"}]}}`

// TestLostNodeIsFenced: a node drops off the network while its pod goes on writing. Once Kubernetes has detached the volume, the
// pod that runs elsewhere is the only one that writes, also when the lost node comes back.
func TestLostNodeIsFenced(t *testing.T) {
	s := newScenario(t)
	node := s.cluster.Nodes[1]
	s.claim("data", withMode(corev1.ReadWriteOnce))
	s.pod("old", "data", onNode(node.Name), runningShell(count))
	s.ready("old")
	s.eventually("the pod writes", func() error {
		if n := s.counted("old", "old"); n < 5 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	assert.NilError(t, node.Cut())
	restored := false
	restore := func() {
		if restored {
			return
		}
		restored = true
		assert.Check(t, node.Restore())
		_, err := s.client.CoreV1().Nodes().Patch(s.ctx, node.Name, types.MergePatchType, []byte(`{"spec":{"taints":null}}`), metav1.PatchOptions{})
		assert.Check(t, err)
		s.eventually(node.Name+" is ready again", func() error { return nodeReady(s, node.Name, true) })
	}
	defer restore()
	s.eventually(node.Name+" is seen to be lost", func() error { return nodeReady(s, node.Name, false) })
	_, err := s.client.CoreV1().Nodes().Patch(s.ctx, node.Name, types.MergePatchType, []byte(outOfService), metav1.PatchOptions{})
	assert.NilError(t, err)
	zero := int64(0)
	err = s.client.CoreV1().Pods(s.namespace).Delete(s.ctx, "old", metav1.DeleteOptions{GracePeriodSeconds: &zero})
	assert.Check(t, err == nil || apierrors.IsNotFound(err), err) // the taint has it deleted, too
	timed(t, "pod ready elsewhere after its node is declared dead", func() {
		s.pod("new", "data", onNode("node-1"))
		s.ready("new")
	})
	// What the lost node has open is the server's to take back.
	written := 0
	timed(t, "the lost node's file read elsewhere", func() {
		s.within(6*time.Minute, "the file can be read", func() error {
			text, err := s.try("new", "tail -n 1 /data/old")
			if err == nil {
				written, err = strconv.Atoi(text)
			}
			return err
		})
	})
	s.sh("new", "echo from new | dd of=/data/new conv=fsync")
	restore()
	// The old pod, which has never stopped, has had the time to try again.
	for range 5 {
		s.sh("new", "sleep 1")
		assert.Equal(t, s.counted("new", "old"), written, "the lost node has written")
	}
}

func nodeReady(s *scenario, name string, want bool) error {
	node, err := s.client.CoreV1().Nodes().Get(s.ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && (c.Status == corev1.ConditionTrue) != want {
			return fmt.Errorf("its condition Ready is %s", c.Status)
		}
	}
	return nil
}

// TestNodePowerLoss: a node dies with its pod and boots again; the pod comes back there with its data.
func TestNodePowerLoss(t *testing.T) {
	s := newScenario(t)
	node := s.cluster.Nodes[1]
	s.claim("data")
	s.pod("pod", "data", onNode(node.Name), func(p *corev1.Pod) {
		p.Spec.Containers[0].Command = []string{"sh", "-c", "echo started >> /data/log; while :; do sleep 1; done"}
	})
	s.ready("pod")
	s.pod("viewer", "data", onNode("node-1"))
	s.ready("viewer")
	assert.NilError(t, node.PowerOff())
	s.sh("viewer", "echo seen >> /data/log")
	ctx, cancel := context.WithTimeout(s.ctx, 2*time.Minute)
	defer cancel()
	timed(t, "pod runs again after its node's power loss", func() {
		assert.NilError(t, node.PowerOn(ctx))
		s.eventually("the pod has started again", func() error {
			if log := s.sh("viewer", "cat /data/log"); log != "started\nseen\nstarted" {
				return fmt.Errorf("the log is %q", log)
			}
			return nil
		})
	})
}
