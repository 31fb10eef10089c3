//go:build lab

package system_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/system"
)

// healthTime is longer than a check of a dead server and a dead agent with the timeouts of hurried.
const healthTime = 15 * time.Second

// hurried sets timeouts with which tests with a dead server end soon.
var hurried = []string{"DRIVER_MOUNT_TIMEOUT=10s", "DRIVER_UNMOUNT_TIMEOUT=5s", "DRIVER_STAT_TIMEOUT=2s"}

// nodeHealth returns the node driver's conditions of a volume and of its storage, as sorted
// reasons.
func nodeHealth(t *testing.T, a *system.Attachment) (volume, storage []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), healthTime)
	defer cancel()
	ofVolume, err := a.Node.CSI.NodeGetVolumeHealth(ctx, &csi.NodeGetVolumeHealthRequest{
		VolumeId: a.Volume.GetVolumeId(), StagingTargetPath: a.Staging, VolumePublishPath: a.Target,
	})
	assert.NilError(t, err)
	ofStorage, err := a.Node.CSI.NodeGetStorageHealth(ctx, &csi.NodeGetStorageHealthRequest{})
	assert.NilError(t, err)
	found, foundStorage := map[string]bool{}, map[string]bool{}
	for _, e := range ofVolume.GetVolumeHealth().GetHealthStatuses() {
		found[e.GetReason()] = true
	}
	for _, b := range ofStorage.GetBackendHealth() {
		foundStorage[b.GetReason()] = true
	}
	return slices.Sorted(maps.Keys(found)), slices.Sorted(maps.Keys(foundStorage))
}

func hasNodeHealth(t *testing.T, a *system.Attachment, want ...string) {
	t.Helper()
	got, _ := nodeHealth(t, a)
	assert.Check(t, slices.Equal(got, want), "got %v, want %v", got, want)
}

// awaitNodeHealth is for conditions that depend on usage: btrfs updates its counters with the next
// commit.
func awaitNodeHealth(t *testing.T, a *system.Attachment, want ...string) {
	t.Helper()
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if got, _ := nodeHealth(t, a); !slices.Equal(got, want) {
			return poll.Continue("got %v, want %v", got, want)
		}
		return poll.Success()
	}, poll.WithTimeout(time.Minute), poll.WithDelay(time.Second))
}

// fill writes until the limit is reached. It writes large requests, the last of which is refused
// completely, and then small ones. Compressible data would take long.
func fill(t *testing.T, a *system.Attachment) {
	t.Helper()
	for _, write := range []string{`dd if=/dev/urandom of="$V/fill" bs=1M conv=fsync`, `dd if=/dev/urandom of="$V/fill-more" bs=16k oflag=sync`} {
		_, err := a.Shell(write)
		assert.ErrorContains(t, err, "quota", "the volume takes more than its limit")
	}
}

// onBothEngines runs a test on a system with one node for each export engine.
func onBothEngines(t *testing.T, test func(*testing.T, *system.System)) {
	t.Helper()
	for name, mode := range map[string]struct {
		nfs    lab.NFSMode
		engine string
	}{"exportfs": {lab.Mountd, "exportfs"}, "kernel": {lab.Unanswered, "kernel"}} {
		t.Run(name, func(t *testing.T) {
			s := system.New(t, system.Options{
				Lab: lab.Options{Nodes: 1, NFS: mode.nfs, PoolMountOptions: system.EverySecond}, NodeEnv: hurried, AgentEnv: []string{"AGENT_NFS_EXPORTER=" + mode.engine},
			})
			test(t, s)
		})
	}
}

func TestNodeHealth(t *testing.T) { onBothEngines(t, nodeHealthOf) }

func nodeHealthOf(t *testing.T, s *system.System) {
	a := system.Attach(t, s, 0, system.Create(t, s, "v"), system.AttachOptions{})
	hasNodeHealth(t, a)

	fill(t, a)
	awaitNodeHealth(t, a, "VolumeFull")
	system.Shell(t, a, `rm "$V"/fill*`)
	awaitNodeHealth(t, a)

	assert.NilError(t, s.Agent.Kill())
	volume, storage := nodeHealth(t, a)
	assert.DeepEqual(t, volume, []string{"AgentUnreachable"})
	assert.DeepEqual(t, storage, []string{"AgentUnreachable"})
	assert.NilError(t, s.Agent.Start())
	hasNodeHealth(t, a)

	assert.NilError(t, s.Lab.Storage.CutNetwork())
	volume, storage = nodeHealth(t, a)
	assert.NilError(t, s.Lab.Storage.RestoreNetwork())
	assert.DeepEqual(t, volume, []string{"AgentUnreachable", "ServerNotResponding"})
	assert.DeepEqual(t, storage, []string{"AgentUnreachable", "ServerNotResponding"})

	assert.NilError(t, a.ControllerUnpublish(t.Context()))
	poll.WaitOn(t, func(poll.LogT) poll.Result { // until the client has retransmitted lost requests
		if volume, storage = nodeHealth(t, a); slices.Contains(volume, "ServerNotResponding") || slices.Contains(volume, "AgentUnreachable") {
			return poll.Continue("%v", volume)
		}
		return poll.Success()
	}, poll.WithTimeout(2*time.Minute), poll.WithDelay(time.Second))
	assert.DeepEqual(t, volume, []string{"ExportMissing"})
	assert.DeepEqual(t, storage, []string(nil)) // the server is healthy

	assert.NilError(t, a.ControllerPublish(t.Context()))
	assert.NilError(t, a.Stage(t.Context()))
	assert.NilError(t, a.Publish(t.Context()))
	hasNodeHealth(t, a)
}

func TestDetachedFromARunningPod(t *testing.T) { onBothEngines(t, detachedFromARunningPod) }

// A pod keeps running while its volume is detached from the node and attached again. Its mount
// stays stale, health reports that, and the next pod on the node gets a new mount.
func detachedFromARunningPod(t *testing.T, s *system.System) {
	v := system.Create(t, s, "v")
	old := system.Attach(t, s, 0, v, system.AttachOptions{Pod: "old"})
	next := s.NewAttachment(s.Nodes[0], v, system.AttachOptions{Pod: "next"})
	t.Cleanup(func() { assert.Check(t, next.Unpublish(context.WithoutCancel(t.Context()))) })
	const identity = `stat -c %d "$V/file"; stat -c %i "$V/file"`
	before := strings.Fields(system.Shell(t, old, `echo kept > "$V/file"; sync "$V/file"; `+identity))

	assert.NilError(t, old.ControllerUnpublish(t.Context()))
	hasNodeHealth(t, old, "ExportMissing")
	assert.NilError(t, old.ControllerPublish(t.Context()))
	isStale(t, old)

	// A kubelet does not stage for the next pod: the volume is already staged.
	assert.NilError(t, next.ControllerPublish(t.Context()))
	assert.NilError(t, next.Publish(t.Context()))
	assert.Equal(t, system.Shell(t, next, `cat "$V/file"`), "kept")
	hasNodeHealth(t, next)
	isStale(t, old)
	after := strings.Fields(system.Shell(t, next, identity))
	assert.Assert(t, after[0] != before[0], "st_dev")
	assert.Equal(t, after[1], before[1], "st_ino")
	restart(t, old)

	// The mounts also become stale if the volume is staged again.
	assert.NilError(t, old.ControllerUnpublish(t.Context()))
	assert.NilError(t, old.ControllerPublish(t.Context()))
	assert.NilError(t, old.Stage(t.Context()))
	for _, a := range []*system.Attachment{old, next} {
		isStale(t, a)
		restart(t, a)
	}
}

func isStale(t *testing.T, a *system.Attachment) {
	t.Helper()
	const read = `cat "$V/file"`
	await(t, "the node knows that its delegation of the file is gone", func() bool {
		_, err := a.Shell(read)
		return err != nil
	})
	_, err := a.Shell(read)
	assert.ErrorContains(t, err, "Stale")
	for _, target := range []string{"", a.Target} {
		answer, err := a.Node.CSI.NodeGetVolumeHealth(t.Context(), &csi.NodeGetVolumeHealthRequest{VolumeId: a.Volume.GetVolumeId(), VolumePublishPath: target})
		assert.NilError(t, err)
		found := answer.GetVolumeHealth().GetHealthStatuses()
		assert.Equal(t, len(found), 1, "%v", found)
		assert.Equal(t, found[0].GetReason(), "MountStale")
		for _, part := range []string{a.Target, "detached from this node", "restart the pod"} {
			assert.Assert(t, is.Contains(found[0].GetMessage(), part))
		}
	}
}

// restart gives the volume to the pod's successor.
func restart(t *testing.T, a *system.Attachment) {
	t.Helper()
	assert.NilError(t, a.Unpublish(t.Context()))
	assert.NilError(t, a.Publish(t.Context()))
	assert.Equal(t, system.Shell(t, a, `cat "$V/file"`), "kept")
	hasNodeHealth(t, a)
}
