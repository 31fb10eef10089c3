//go:build lab

package system_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/system"
)

// Over NFSv4.2, cp between two claims is a copy on the server, which exceeds the limit of full
// quotas. Health reports that. With AGENT_NFS_MAX_VERSION 4.1, cp copies through the client, and
// the limit applies.
func TestCopyBetweenClaims(t *testing.T) {
	for name, test := range map[string]struct {
		nfs             lab.NFSMode
		engine, version string
	}{
		"exportfs 4.2": {lab.Mountd, "exportfs", "4.2"}, "exportfs 4.1": {lab.Mountd, "exportfs", "4.1"},
		"kernel 4.2": {lab.Agent, "kernel", "4.2"}, "kernel 4.1": {lab.Agent, "kernel", "4.1"},
	} {
		t.Run(name, func(t *testing.T) {
			s := system.New(t, system.Options{
				Lab:      lab.Options{Nodes: 1, NFS: test.nfs, NFSMaxVersion: test.version, PoolMountOptions: system.EverySecond},
				NodeEnv:  hurried,
				AgentEnv: []string{"AGENT_NFS_EXPORTER=" + test.engine, "AGENT_NFS_MAX_VERSION=" + test.version, "AGENT_QUOTA_MODE=full"},
			})
			big, err := s.CreateVolume(t.Context(), "big", 256*mib, nil)
			assert.NilError(t, err)
			from := system.Attach(t, s, 0, big, system.AttachOptions{})
			to := system.Attach(t, s, 0, system.Create(t, s, "small"), system.AttachOptions{}) // 64 MiB
			system.Shell(t, from, `dd if=/dev/urandom of="$V/file" bs=1M count=100 conv=fsync`)
			options := system.Shell(t, to, `findmnt -no OPTIONS --target "$V"`)
			assert.Assert(t, slices.Contains(strings.Split(options, ","), "vers="+test.version), options)

			_, err = s.Nodes[0].RunWithin(time.Minute, "sh", "-ec", `cp "$0/file" "$1/copied"; sync "$1/copied"`, from.Target, to.Target)
			if test.version == "4.1" {
				assert.ErrorContains(t, err, "Disk quota exceeded")
				used, _, err := to.Usage(t.Context())
				assert.NilError(t, err)
				assert.Assert(t, used <= 64*mib, "%d bytes are used", used)
				return
			}
			assert.NilError(t, err)
			poll.WaitOn(t, func(poll.LogT) poll.Result {
				if found, _ := nodeHealth(t, to); !slices.Contains(found, "VolumeOverLimit") {
					return poll.Continue("%v", found)
				}
				return poll.Success()
			}, poll.WithTimeout(time.Minute), poll.WithDelay(time.Second))
		})
	}
}
