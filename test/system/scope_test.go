//go:build lab

package system_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/system"
)

// longGrace limits the time in which clients must reclaim their locks. The period ends when all
// clients have reclaimed.
const longGrace = time.Minute

// A node keeps its lock when the NFS server and the agent start on a host with another name, as
// after a failover.
func TestLocksSurviveAnotherHostName(t *testing.T) {
	t.Run("exportfs", func(t *testing.T) {
		s := system.New(t, system.Options{
			Lab: lab.Options{Nodes: 2, Grace: longGrace, NFSScope: "btrfs-nfs-of-the-pool"}, AgentEnv: []string{"AGENT_NFS_EXPORTER=exportfs"},
		})
		one, two := holdLock(t, s)
		failover := func(host string) {
			t.Helper()
			assert.NilError(t, s.Lab.StopNFSServer())
			assert.NilError(t, s.Agent.Stop())
			rename(t, s, host)
			assert.NilError(t, s.Agent.Start())
			assert.NilError(t, s.Lab.StartNFSServer())
		}
		failover("beta")
		assert.Assert(t, !isFree(t, s, one, two), "the lock is lost")

		// With the host's name as its scope, the server is a different one for clients.
		s.Lab.SetNFSScope("")
		failover("gamma")
		assert.Assert(t, isFree(t, s, one, two), "the lock is held")
	})
	t.Run("kernel", func(t *testing.T) {
		s := system.New(t, system.Options{
			Lab:      lab.Options{Nodes: 2, NFS: lab.Agent},
			AgentEnv: []string{"AGENT_NFS_EXPORTER=kernel", "AGENT_NFS_SERVER_LEASE_TIME=10s", "AGENT_NFS_SERVER_GRACE_TIME=" + longGrace.String()},
		})
		one, two := holdLock(t, s)
		assert.NilError(t, s.Agent.Stop())
		out, err := s.Lab.Storage.Run(os.Getenv("BNC_BIN")+"/btrfs-nfs-agent", "nfs", "stop")
		assert.NilError(t, err)
		assert.Assert(t, is.Contains(out, "is stopped"))
		rename(t, s, "beta")
		assert.NilError(t, s.Agent.Start())
		assert.Assert(t, !isFree(t, s, one, two), "the lock is lost")
		name, err := s.Lab.Storage.Run("hostname")
		assert.NilError(t, err)
		assert.Equal(t, name, "beta", "the host keeps its name")

		// The grace period ended long ago, and the server has the exports.
		assert.NilError(t, s.Agent.Stop())
		assert.NilError(t, s.Agent.Start())
		hasConditions(t, s)
	})
}

// The NFS server of another host starts before the agent and without exports, and its grace period
// ends. The agent reports that. It does not report it when only the agent restarts.
func TestGraceEndsBeforeTheAgentIsReady(t *testing.T) {
	s := system.New(t, system.Options{Lab: lab.Options{Nodes: 2}, AgentEnv: []string{"AGENT_NFS_EXPORTER=exportfs"}})
	holdLock(t, s)
	hasConditions(t, s)

	assert.NilError(t, s.Lab.StopNFSServer())
	assert.NilError(t, s.Agent.Stop())
	_, err := s.Lab.Storage.Run("sh", "-c", "rm /etc/exports.d/*")
	assert.NilError(t, err)
	assert.NilError(t, s.Lab.StartNFSServer())
	assert.NilError(t, os.WriteFile(s.Lab.Storage.Path("/proc/fs/nfsd/v4_end_grace"), []byte("Y"), 0))
	assert.NilError(t, s.Agent.Start())
	hasConditions(t, s, agentapi.ReasonGraceMissed)
	assert.Assert(t, is.Contains(s.Agent.Log(), "the grace period of the NFS server has ended before the agent exported volumes"))

	assert.NilError(t, s.Agent.Stop())
	assert.NilError(t, s.Agent.Start())
	hasConditions(t, s)
}

func rename(t *testing.T, s *system.System, host string) {
	t.Helper()
	_, err := s.Lab.Storage.Run("hostname", host)
	assert.NilError(t, err)
}

// holdLock makes a pod on the first node hold a lock until the test ends. The other pod is on the
// second node.
func holdLock(t *testing.T, s *system.System) (one, two *system.Attachment) {
	t.Helper()
	v := system.Create(t, s, "v")
	one, two = system.Attach(t, s, 0, v, system.AttachOptions{}), system.Attach(t, s, 1, v, system.AttachOptions{})
	assert.NilError(t, s.Nodes[0].StartDaemon("sh", "-c", `exec 9<>"$0/lock" && flock -n 9 && touch "$0/locked" && exec sleep infinity`, one.Target))
	t.Cleanup(func() { s.Nodes[0].StopDaemon("sh") })
	await(t, "the lock is taken", func() bool {
		_, err := one.Shell(`test -e "$V/locked"`)
		return err == nil
	})
	_, err := two.Shell(`flock -n "$V/lock" true`)
	assert.ErrorContains(t, err, "exit status 1")
	return one, two
}

// isFree asks the server for the lock from the second node, when both nodes have reclaimed their
// state.
func isFree(t *testing.T, s *system.System, one, two *system.Attachment) bool {
	t.Helper()
	for _, pod := range []*system.Attachment{one, two} {
		system.Shell(t, pod, `stat -f "$V"`) // always a request to the server, which shows that the server has restarted
	}
	await(t, "the grace period ends", func() bool {
		ended, err := os.ReadFile(s.Lab.Storage.Path("/proc/fs/nfsd/v4_end_grace"))
		return err == nil && strings.TrimSpace(string(ended)) == "Y"
	})
	_, err := two.Shell(`flock -n "$V/lock" true`)
	if err != nil {
		assert.ErrorContains(t, err, "exit status 1")
	}
	return err == nil
}

func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if !holds() {
			return poll.Continue("waiting until %s", what)
		}
		return poll.Success()
	}, poll.WithTimeout(2*longGrace), poll.WithDelay(50*time.Millisecond))
}
