//go:build lab

package system_test

import (
	"fmt"
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

func TestBesideAnotherRoot(t *testing.T) { onBothEngines(t, besideAnotherRoot) }

// Another export with fsid=0 prevents nodes from mounting volumes. With the exportfs engine it is
// an export of nfs-utils, with the kernel engine only one that is written to the kernel itself.
// Health reports it as long as it exists.
func besideAnotherRoot(t *testing.T, s *system.System) {
	v := system.Create(t, s, "v")
	storage := func(script string) string {
		out, err := s.Lab.Storage.Run("sh", "-ec", script)
		assert.NilError(t, err, out)
		return out
	}
	storage(`mkdir -p /run/share/media`)
	const export = `exportfs -o rw,fsid=0,no_subtree_check '*:/run/share'`
	storage(export)
	if strings.HasSuffix(t.Name(), "/kernel") {
		// Exports in the table of nfs-utils have no effect.
		hasConditions(t, s)
		system.Attach(t, s, 0, v, system.AttachOptions{})
		// Another program writes to the kernel: client, path, expiry, flags (FSID, NOSUBTREECHECK),
		// anonymous user and group, file system ID.
		storage(fmt.Sprintf(`printf '%s /run/share %%s 9216 65534 65534 0\n' $(($(date +%%s) + 600)) > /proc/net/rpc/nfsd.export/channel`, s.Nodes[0].IP))
		hasConditions(t, s, agentapi.ReasonExportRootForeign)
		storage(`exportfs -f`)
		hasConditions(t, s)
		return
	}
	hasConditions(t, s, agentapi.ReasonExportRootForeign)
	found, err := s.Lab.Storage.Run("sh", "-c", `AGENT_BASE_PATH=/srv AGENT_TENANTS=a:b AGENT_NFS_EXPORTER=exportfs "$0" doctor`, os.Getenv("BNC_BIN")+"/btrfs-nfs-agent")
	assert.Assert(t, err != nil, "doctor finds a problem")
	assert.Assert(t, is.Contains(found, "exportfs exports /run/share with fsid=0"))
	a, err := s.Attach(t.Context(), s.Nodes[0], v, system.AttachOptions{})
	assert.Assert(t, is.ErrorContains(err, "No such file or directory"))
	assert.NilError(t, a.Detach(t.Context()))

	// Volumes are not reachable through the root directory with fsid=0 either.
	storage(`exportfs -u '*:/run/share' && exportfs -o ro,fsid=0,crossmnt,no_subtree_check '*:/'`)
	hasConditions(t, s, agentapi.ReasonExportRootForeign)
	a, err = s.Attach(t.Context(), s.Nodes[0], v, system.AttachOptions{})
	assert.Assert(t, err != nil)
	assert.NilError(t, a.Detach(t.Context()))

	storage(`exportfs -u '*:/'`)
	hasConditions(t, s)
	system.Attach(t, s, 0, v, system.AttachOptions{})
}

// The server refuses a client whose requests come from ports above 1023, as with address
// translation. An option of the agent controls that.
func TestPortsAbove1023(t *testing.T) {
	for name, mode := range map[string]lab.NFSMode{"exportfs": lab.Mountd, "kernel": lab.Unanswered} {
		for options, works := range map[string]bool{"": false, "insecure": true} {
			t.Run(name+" "+options, func(t *testing.T) {
				s := system.New(t, system.Options{
					Lab: lab.Options{Nodes: 1, NFS: mode}, NodeEnv: hurried, NFSMountOptions: "noresvport",
					AgentEnv: []string{"AGENT_NFS_EXPORTER=" + name, "AGENT_KERNEL_EXPORT_OPTIONS=" + options},
				})
				v := system.Create(t, s, "v")
				if works {
					system.Attach(t, s, 0, v, system.AttachOptions{})
					return
				}
				a, err := s.Attach(t.Context(), s.Nodes[0], v, system.AttachOptions{})
				assert.Assert(t, is.ErrorContains(err, "Operation not permitted"))
				assert.NilError(t, a.Detach(t.Context()))
			})
		}
	}
}

// hasConditions waits until the agent reports exactly these conditions.
func hasConditions(t *testing.T, s *system.System, want ...string) {
	t.Helper()
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		health, err := s.API.Health(t.Context())
		if err != nil {
			return poll.Error(err)
		}
		var got []string
		for _, c := range health.Conditions {
			got = append(got, c.Reason)
		}
		if len(got) != len(want) || len(got) > 0 && got[0] != want[0] {
			return poll.Continue("%v", got)
		}
		return poll.Success()
	}, poll.WithTimeout(time.Minute), poll.WithDelay(time.Second))
}
