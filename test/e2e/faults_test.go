package e2e

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/e2e/cluster"
)

// count is a shell program that appends numbers to a file, each made durable. It does not replace
// the file each time. A server that delegates files (RFC 8881, section 10.4) would recall each
// delegation from this client, by which time the name is that of the next file, and a reader on
// another node would wait forever. It does not use sync(1), which in this cluster waits for the
// mounts of all nodes, because they share a kernel.
const count = "i=0; while :; do i=$((i+1)); echo $i | dd of=/data/$HOSTNAME oflag=append conv=notrunc,fsync 2>/dev/null; sleep 0.1; done"

// counted returns the progress of a counting pod as another pod sees it. A missing or empty file is
// an error.
func (s *scenario) counted(viewer, pod string) (int, error) {
	text, err := s.try(viewer, "tail -n 1 /data/"+pod)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}

// goesOn waits until a counting pod makes progress.
func (s *scenario) goesOn(viewer, pod string) {
	s.Helper()
	from := -1
	s.eventually(pod+" goes on writing", func() error {
		now, err := s.counted(viewer, pod)
		if err != nil {
			return err
		}
		if from < 0 {
			from = now
		}
		if now <= from+2 {
			return fmt.Errorf("from %d to %d", from, now)
		}
		return nil
	})
}

// TestRestarts restarts one component after another, while pods write and volumes are created and
// deleted.
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
			size := fmt.Sprintf("%dMi", 80+16*i)
			s.claim(claim)
			s.startSnapshot(snapshot, "data")
			s.startResize("data", size)
			s.pod(pod, claim, onNode("node-1"))
			part.restart()
			timed(t, "after the "+part.name+"'s restart: pod ready", func() { s.ready(pod) })
			s.sh(pod, "echo text > /data/file && sync")
			s.goesOn("viewer", "writer")
			s.snapshotReady(snapshot)
			s.resized("data", size)
			s.deletePod(pod)
			s.kubectl("delete", "pvc", claim, "--wait=false")
		})
	}
	writer, err := s.client.CoreV1().Pods(s.namespace).Get(s.ctx, "writer", metav1.GetOptions{})
	assert.NilError(t, err)
	assert.Equal(t, writer.Status.ContainerStatuses[0].RestartCount, int32(0))
}

// outOfService is the taint with which an administrator declares a node dead (kubernetes.io,
// "Non-graceful node shutdown").
const outOfService = `{"spec":{"taints":[{"key":"node.kubernetes.io/out-of-service","value":"nodeshutdown","effect":"NoExecute"}]}}`

// TestLostNodeIsFenced: a node loses the network while its pod keeps writing. Once Kubernetes has
// detached the volume, only the pod on another node can write, even when the lost node comes back.
func TestLostNodeIsFenced(t *testing.T) {
	s := newScenario(t)
	node := s.cluster.Nodes[1]
	s.claim("data", withMode(corev1.ReadWriteOnce))
	s.pod("old", "data", onNode(node.Name), runningShell(count))
	s.ready("old")
	s.eventually("the pod writes", func() error {
		n, err := s.counted("old", "old")
		if err == nil && n < 5 {
			err = fmt.Errorf("it has come to %d", n)
		}
		return err
	})
	// Kubernetes does not know this mount, so it does not end with the pod.
	const byHand = "/run/by-hand"
	source := s.sh("old", "grep ' /data nfs4 ' /proc/mounts | cut -d' ' -f1")
	_, err := node.Run("mkdir", "-p", byHand)
	assert.NilError(t, err)
	_, err = node.Run("mount", "-t", "nfs4", "-o", "vers=4.2,nosharecache", source, byHand) // a separate mount: `umount -f` of the other must not end its calls
	assert.NilError(t, err)
	defer func() {
		_, err := node.Run("umount", "--lazy", byHand)
		assert.Check(t, err)
	}()
	writeByHand := func(text string) error {
		_, err := node.Run("timeout", "--kill-after=5", "90", "sh", "-c", "echo "+text+" | dd of="+byHand+"/by-hand oflag=append conv=notrunc,fsync")
		return err
	}
	assert.NilError(t, writeByHand("before"))
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
	_, err = s.client.CoreV1().Nodes().Patch(s.ctx, node.Name, types.MergePatchType, []byte(outOfService), metav1.PatchOptions{})
	assert.NilError(t, err)
	zero := int64(0)
	err = s.client.CoreV1().Pods(s.namespace).Delete(s.ctx, "old", metav1.DeleteOptions{GracePeriodSeconds: &zero})
	assert.Check(t, err == nil || apierrors.IsNotFound(err), err) // the taint also has it deleted
	timed(t, "pod ready elsewhere after its node is declared dead", func() {
		s.pod("new", "data", onNode("node-1"))
		s.ready("new")
	})
	// The server revokes the open files of the lost node.
	written := 0
	timed(t, "the lost node's file read elsewhere", func() {
		s.within(6*time.Minute, "the file can be read", func() error {
			written, err = s.counted("new", "old")
			return err
		})
	})
	s.sh("new", "echo from new | dd of=/data/new conv=fsync")
	restore()
	// The node can reach the server again and is not let in. The old pod had time to try, and has not
	// written either.
	err = writeByHand("after")
	assert.Assert(t, err != nil, "the lost node can write")
	t.Log(err)
	assert.Assert(t, is.Regexp("Stale file handle|Permission denied|Input/output error", err.Error()), "the lost node's write was not refused")
	s.eventually("the file is as it was", func() error {
		text, err := s.try("new", "cat /data/by-hand")
		if err == nil {
			assert.Equal(t, text, "before", "the lost node has written")
		}
		return err
	})
	s.eventually("the old pod's file is as it was", func() error {
		now, err := s.counted("new", "old")
		if err == nil {
			assert.Equal(t, now, written, "the lost node has written")
		}
		return err
	})
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

// TestNodePowerLoss: a node dies with its pod and boots again. The pod comes back there with its
// data.
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
			log, err := s.try("viewer", "cat /data/log")
			if err == nil && log != "started\nseen\nstarted" {
				err = fmt.Errorf("the log is %q", log)
			}
			return err
		})
	})
}
