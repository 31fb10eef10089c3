//go:build lab

package system_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/system"
)

// controllerHealth returns the controller's conditions of a volume, as "STATUS Reason", and those
// in its list. If the agent does not answer and no cluster knows the volumes, the list fails, and
// listed is empty.
func controllerHealth(t *testing.T, s *system.System, id string) (told, listed []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	one, err := s.CSI.ControllerGetVolumeHealth(ctx, &csi.ControllerGetVolumeHealthRequest{VolumeId: id})
	assert.NilError(t, err)
	told = shownHealth(one.VolumeHealth)
	list, err := s.CSI.ControllerListVolumeHealth(ctx, &csi.ControllerListVolumeHealthRequest{})
	if len(one.VolumeHealth.HealthStatuses) > 0 && one.VolumeHealth.HealthStatuses[0].Reason == "AgentUnreachable" {
		assert.Assert(t, err != nil, "%v", list)
		return told, told
	}
	assert.NilError(t, err)
	listed = []string{}
	for _, entry := range list.Entries {
		if entry.VolumeId == id {
			listed = append(listed, shownHealth(entry)...)
		}
	}
	return told, listed
}

func shownHealth(h *csi.VolumeHealth) []string {
	out := []string{}
	for _, s := range h.GetHealthStatuses() {
		out = append(out, fmt.Sprint(s.Status, " ", s.Reason))
	}
	return out
}

func awaitControllerHealth(t *testing.T, s *system.System, id string, want ...string) {
	t.Helper()
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if told, listed := controllerHealth(t, s, id); !slices.Equal(told, want) || !slices.Equal(listed, want) {
			return poll.Continue("%v, listed as %v, want %v", told, listed, want)
		}
		return poll.Success()
	}, poll.WithTimeout(2*time.Minute), poll.WithDelay(time.Second)) // pool and quota are checked periodically
}

// The controller reports real problems of a volume, its pool and its agent.
func TestControllerHealth(t *testing.T) {
	s := system.New(t, system.Options{Lab: lab.Options{Nodes: 1, PoolMountOptions: system.EverySecond}, NodeEnv: hurried})
	a := system.Attach(t, s, 0, system.Create(t, s, "v"), system.AttachOptions{})
	id := a.Volume.VolumeId
	storage := func(args ...string) {
		t.Helper()
		_, err := s.Lab.Storage.Run(args[0], args[1:]...)
		assert.NilError(t, err)
	}
	awaitControllerHealth(t, s, id)

	fill(t, a)
	awaitControllerHealth(t, s, id, "DEGRADED VolumeFull")
	system.Shell(t, a, `rm "$V"/fill*`)
	awaitControllerHealth(t, s, id)

	storage("mount", "-o", "remount,ro", s.Lab.Pool)
	awaitControllerHealth(t, s, id, "DEGRADED PoolReadOnly")
	storage("mount", "-o", "remount,rw", s.Lab.Pool)
	awaitControllerHealth(t, s, id)

	// The test revokes the node's access, and the agent cannot restore it, which it would do within a
	// second.
	exportfs := filepath.Join(t.TempDir(), "exportfs")
	storage("cp", "/usr/sbin/exportfs", exportfs)
	storage("mount", "--bind", "/bin/false", "/usr/sbin/exportfs")
	storage(exportfs, "-u", s.Nodes[0].IP.String()+":"+filepath.Join(s.Lab.Pool, system.Tenant, "v", "data"))
	awaitControllerHealth(t, s, id, "INACCESSIBLE ExportMissing")
	storage("umount", "/usr/sbin/exportfs")
	awaitControllerHealth(t, s, id)

	// First only the agent is gone, then its host as well.
	assert.NilError(t, s.Agent.Kill())
	awaitControllerHealth(t, s, id, "DEGRADED AgentUnreachable")
	assert.NilError(t, s.Lab.Storage.CutNetwork())
	awaitControllerHealth(t, s, id, "INACCESSIBLE AgentUnreachable")
	assert.NilError(t, s.Lab.Storage.RestoreNetwork())

	v, err := filepath.Glob(filepath.Join(s.Lab.Pool, system.Tenant, "v", "metadata.json"))
	assert.NilError(t, err)
	assert.Equal(t, len(v), 1)
	whole, err := os.ReadFile(v[0])
	assert.NilError(t, err)
	assert.NilError(t, os.Truncate(v[0], 0))
	assert.NilError(t, s.Agent.Start())
	awaitControllerHealth(t, s, id, "DEGRADED Quarantined")
	system.Shell(t, a, `echo goes on > "$V/file"; sync "$V/file"`)
	other := s.NewAttachment(s.Nodes[0], a.Volume, system.AttachOptions{Pod: "other"})
	assert.Equal(t, status.Code(s.DeleteVolume(t.Context(), id)), codes.FailedPrecondition, "nothing deletes it")
	assert.NilError(t, other.Publish(t.Context()))
	assert.NilError(t, other.Unpublish(t.Context()))

	assert.NilError(t, s.Agent.Kill())
	assert.NilError(t, os.WriteFile(v[0], whole, 0o600))
	assert.NilError(t, s.Agent.Start())
	awaitControllerHealth(t, s, id)
}
