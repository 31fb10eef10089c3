package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/e2e/cluster"
)

// boundClaims returns how many of the scenario's claims are bound.
func (s *scenario) boundClaims() int {
	s.Helper()
	list, err := s.client.CoreV1().PersistentVolumeClaims(s.namespace).List(s.ctx, metav1.ListOptions{})
	assert.NilError(s, err)
	n := 0
	for _, c := range list.Items {
		if c.Status.Phase == corev1.ClaimBound {
			n++
		}
	}
	return n
}

func (s *scenario) waitForBound(most time.Duration, want int) {
	s.Helper()
	s.within(most, fmt.Sprint(want, " claims are bound"), func() error {
		if n := s.boundClaims(); n < want {
			return fmt.Errorf("%d are", n)
		}
		return nil
	})
}

// onDisk returns how many volumes the agent has for the scenario's claims.
func (s *scenario) onDisk() int {
	s.Helper()
	out, err := s.cluster.Storage("ls", "/srv/btrfs/e2e")
	assert.NilError(s, err)
	n := 0
	for _, pv := range s.volumes() {
		n += strings.Count(out+"\n", pv.Name+"\n")
	}
	return n
}

// TestManyClaims creates 100 claims at once and 50 pods that use them.
func TestManyClaims(t *testing.T) {
	const claims, pods = 100, 50
	s := newScenario(t)
	took := timed(t, "100 claims bound", func() {
		for i := range claims {
			s.claim(fmt.Sprint("claim-", i), ofSize("16Mi"))
		}
		s.waitForBound(patience, claims)
	})
	t.Logf("%.1f claims a second", claims/took.Seconds())
	assert.Equal(t, len(s.volumes()), claims)
	assert.Equal(t, s.onDisk(), claims)
	timed(t, "50 pods ready", func() {
		for i := range pods {
			s.pod(fmt.Sprint("pod-", i), fmt.Sprint("claim-", i), runningShell("echo $HOSTNAME > /data/file"))
		}
		// The guest has one CPU, on which a container takes seconds to start.
		s.within(15*time.Minute, "the pods are ready", func() error {
			out, err := s.cluster.Kubectl(s.ctx, "-n", s.namespace, "get", "pods", "-o", `jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}`)
			if err != nil {
				return err
			}
			if n := strings.Count(out, "True"); n < pods {
				return fmt.Errorf("%d are", n)
			}
			return nil
		})
	})
	timed(t, "50 pods and 100 claims deleted", func() {
		s.kubectl("delete", "pods", "--all", "--wait=false")
		s.kubectl("delete", "pvc", "--all", "--wait=false")
		s.within(10*time.Minute, "no volume is left", func() error {
			if left := s.volumes(); len(left) > 0 {
				return fmt.Errorf("%d volumes are there", len(left))
			}
			return nil
		})
	})
}

// leads waits until a replica has the leases of the sidecars. It returns the holder of the
// provisioner's lease, which is the only one that does not name its pod.
func (s *scenario) leads(r *cluster.Replica) (provisioner string) {
	s.Helper()
	s.eventually(r.Pod+" leads", func() error {
		leases, err := s.client.CoordinationV1().Leases(cluster.Namespace).List(s.ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		held := map[string]string{}
		for _, lease := range leases.Items {
			if holder := lease.Spec.HolderIdentity; holder != nil {
				held[lease.Name] = *holder
			}
		}
		if len(held) < 4 { // provisioner, attacher, snapshotter, resizer
			return fmt.Errorf("the leases are %v", held)
		}
		for name, holder := range held {
			if name == cluster.DriverName {
				provisioner = holder
			} else if holder != r.Pod {
				return fmt.Errorf("the leases are %v", held)
			}
		}
		return nil
	})
	return provisioner
}

// TestLeaderLost kills the leading replica, controller and sidecars at once, while 100 claims are
// being provisioned.
func TestLeaderLost(t *testing.T) {
	const claims = 100
	s := newScenario(t)
	assert.NilError(t, s.cluster.ScaleController(s.ctx, 2))
	leader, second := s.cluster.Replicas[0], s.cluster.Replicas[1]
	provisioner := s.leads(leader)
	for i := range claims {
		s.claim(fmt.Sprint("claim-", i), ofSize("16Mi"))
		if i == claims/2 {
			s.waitForBound(patience, 1)
			leader.Kill()
		}
	}
	killed := s.boundClaims()
	assert.Assert(t, killed < claims, "all claims were bound before the leader was killed")
	timed(t, "all claims bound after the leader was killed", func() { s.waitForBound(3*time.Minute, claims) })
	assert.Assert(t, s.leads(second) != provisioner)
	assert.NilError(t, leader.Start())
	assert.Equal(t, len(s.volumes()), claims)
	assert.Equal(t, s.onDisk(), claims)
	// The first leader has left no incomplete volumes.
	out, err := s.cluster.Storage("ls", "/srv/btrfs/e2e")
	assert.NilError(t, err)
	all, err := s.client.CoreV1().PersistentVolumes().List(s.ctx, metav1.ListOptions{})
	assert.NilError(t, err)
	assert.Equal(t, strings.Count(out, "pvc-"), len(all.Items))
}
