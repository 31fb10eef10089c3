package e2e

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// TestSmoke covers the whole life of a volume, with pods on two nodes that mount it.
func TestSmoke(t *testing.T) {
	s := newScenario(t)
	timed(t, "claim bound", func() {
		s.claim("data")
		s.bound("data")
	})
	timed(t, "first pod ready", func() {
		s.pod("one", "data", onNode("node-1"), runningShell("echo from one > /data/one"))
		s.ready("one")
	})
	timed(t, "second pod ready, on the other node", func() {
		s.pod("two", "data", onNode("node-2"), runningShell("echo from two > /data/two"))
		s.ready("two")
	})
	assert.Equal(t, s.sh("one", "cat /data/one /data/two"), "from one\nfrom two")
	assert.Equal(t, s.sh("two", "cat /data/one /data/two"), "from one\nfrom two")
	for pod, address := range map[string]string{"one": "10.77.0.11", "two": "10.77.0.12"} {
		mount := s.sh(pod, "grep ' /data ' /proc/mounts")
		for _, want := range []string{" nfs4 ", "vers=4.2", "clientaddr=" + address} {
			assert.Check(t, is.Contains(mount, want))
		}
	}
	timed(t, "snapshot ready", func() { s.snapshot("snap", "data") })
	s.sh("one", "echo changed > /data/one")
	timed(t, "pod on the restored volume ready", func() {
		s.claim("restored", fromSnapshot("snap"))
		s.pod("three", "restored", onNode("node-2"))
		s.ready("three")
	})
	assert.Equal(t, s.sh("three", "cat /data/one /data/two"), "from one\nfrom two")
	// The limit applies before and after it is raised, as pods see it. Zeros would count little if the
	// class compresses.
	_, err := s.try("one", "dd if=/dev/urandom of=/data/big bs=1M count=100 && sync")
	assert.ErrorContains(t, err, "quota exceeded")
	s.sh("one", "rm -f /data/big; sync")
	timed(t, "expanded in use", func() { s.resize("data", "256Mi") })
	s.sh("two", "dd if=/dev/urandom of=/data/big bs=1M count=100 && sync && rm /data/big")
	timed(t, "three pods deleted", func() {
		for _, pod := range []string{"one", "two", "three"} {
			s.deletePod(pod)
		}
	})
	timed(t, "volumes and snapshot deleted", func() {
		s.kubectl("delete", "volumesnapshot", "snap")
		s.kubectl("delete", "pvc", "data", "restored")
		s.eventually("no volume is left", func() error {
			if left := s.volumes(); len(left) > 0 {
				return errorOf(left)
			}
			return nil
		})
	})
	onDisk, err := s.cluster.Storage("find", "/srv/btrfs/e2e", "-mindepth", "1", "-name", "pvc-*", "-o", "-mindepth", "1", "-name", "snapshot-*")
	assert.NilError(t, err)
	assert.Equal(t, strings.TrimSpace(onDisk), "", "the agent has kept something")
}
