//go:build lab

package exports_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/system"
)

// The NFS server's caches hold references to the directories of exports. A directory of a deleted
// volume holds the volume's space. The kernel frees the space although exports change many times
// per second, which delays the cleanup of its caches.
func TestDeletedVolumesGiveTheirSpaceBack(t *testing.T) {
	const churn = 15 * time.Second
	for _, engine := range []string{"kernel", "exportfs"} {
		t.Run(engine, func(t *testing.T) {
			s := system.New(t, system.Options{Lab: lab.Options{Nodes: 1, NFS: modeOf(engine), PoolMountOptions: system.EverySecond}, AgentEnv: []string{"AGENT_NFS_EXPORTER=" + engine}})
			until := time.Now().Add(churn)
			var all errgroup.Group
			for i := range 4 {
				all.Go(func() error { return exportOverAndOver(t, s, fmt.Sprintf("noise-%d", i), until) })
			}
			deleted := 0
			all.Go(func() error {
				for ; time.Now().Before(until); deleted++ {
					if err := useAndDelete(t, s, fmt.Sprintf("used-%d", deleted)); err != nil {
						return err
					}
				}
				return nil
			})
			assert.NilError(t, all.Wait())
			assert.Assert(t, deleted > 0)
			t.Logf("%d volumes were used and deleted", deleted)

			poll.WaitOn(t, func(poll.LogT) poll.Result {
				left, err := s.Lab.Storage.Run("btrfs", "subvolume", "list", "-d", s.Lab.Pool)
				if err != nil {
					return poll.Error(err)
				}
				if n := strings.Count(left, "DELETED"); n > 0 {
					return poll.Continue("%d deleted volumes keep their space", n)
				}
				return poll.Success()
			}, poll.WithTimeout(4*time.Minute), poll.WithDelay(time.Second)) // the kernel releases exports twice a minute
		})
	}
}

func exportOverAndOver(t *testing.T, s *system.System, volume string, until time.Time) error {
	if _, err := s.API.CreateVolume(t.Context(), agentapi.VolumeCreate{Name: volume, SizeBytes: 64 << 20}); err != nil {
		return err
	}
	for i := 0; time.Now().Before(until); i++ {
		client := fmt.Sprintf("10.77.0.%d", 101+i%5)
		if _, err := s.API.Export(t.Context(), volume, agentapi.ExportRequest{Client: client}); err != nil {
			return err
		}
		if err := s.API.Unexport(t.Context(), volume, agentapi.UnexportRequest{Client: client}); err != nil {
			return err
		}
	}
	return nil
}

// useAndDelete creates a volume, lets a client write to it, and deletes it.
func useAndDelete(t *testing.T, s *system.System, volume string) error {
	node := s.Lab.Nodes[0]
	if _, err := s.API.CreateVolume(t.Context(), agentapi.VolumeCreate{Name: volume, SizeBytes: 64 << 20}); err != nil {
		return err
	}
	export, err := s.API.Export(t.Context(), volume, agentapi.ExportRequest{Client: node.IP.String()})
	if err != nil {
		return err
	}
	const use = `mkdir -p "/run/$0"; mount -t nfs4 -o vers=4.2 "$1" "/run/$0"; head -c 100000 /dev/zero > "/run/$0/file"; sync "/run/$0/file"; umount "/run/$0"`
	if _, err := node.Run("sh", "-ec", use, volume, fmt.Sprintf("%s:%s", s.Lab.Storage.IP, export.MountPath)); err != nil {
		return err
	}
	if err := s.API.Unexport(t.Context(), volume, agentapi.UnexportRequest{Client: node.IP.String()}); err != nil {
		return err
	}
	return s.API.DeleteVolume(t.Context(), volume)
}
