//go:build lab

package system_test

import (
	"context"
	"os"
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

const mib = int64(1) << 20

func newSystem(t *testing.T, nodes int) *system.System {
	t.Helper()
	return system.New(t, system.Options{Lab: lab.Options{Nodes: nodes}})
}

func TestIPv6(t *testing.T) {
	s := system.New(t, system.Options{Lab: lab.Options{Nodes: 1}, NodeIPv6: true})
	a := system.Attach(t, s, 0, system.Create(t, s, "v"), system.AttachOptions{})
	system.Shell(t, a, `echo six > "$V/file"`)
	assert.Assert(t, is.Contains(system.Shell(t, a, `findmnt -no SOURCE,OPTIONS --target "$V"`), "fd77::"))
	_, total, err := a.Usage(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, total, 64*mib)
}

func TestReadOnlyPublish(t *testing.T) {
	s := newSystem(t, 2)
	v := system.Create(t, s, "v")
	writer := system.Attach(t, s, 0, v, system.AttachOptions{})
	system.Shell(t, writer, `echo kept > "$V/file"`)
	reader := system.Attach(t, s, 1, v, system.AttachOptions{ReadOnly: true, Capability: system.Capability(csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY)})
	assert.Equal(t, system.Shell(t, reader, `cat "$V/file"`), "kept")
	_, err := reader.Shell(`echo x > "$V/other"`)
	assert.ErrorContains(t, err, "Read-only")
	// The server also refuses writes, whatever the node does with its mount.
	_, err = s.Nodes[1].Run("sh", "-ec", `mount -o remount,rw "$0/data" && echo x > "$0/data/other"`, reader.Staging)
	assert.ErrorContains(t, err, "Read-only")
	system.Shell(t, writer, `test ! -e "$V/other"`)
}

func TestMountGroup(t *testing.T) {
	s := newSystem(t, 1)
	v := system.Create(t, s, "v")
	plain := system.Attach(t, s, 0, v, system.AttachOptions{Pod: "first"})
	system.Shell(t, plain, `mkdir "$V/dir"; echo x > "$V/dir/file"; chgrp -R 0 "$V/dir"; chmod 600 "$V/dir/file"`)
	assert.NilError(t, plain.Detach(t.Context()))

	withGroup := func(group, pod string) *system.Attachment {
		capability := system.Shared()
		capability.GetMount().VolumeMountGroup = group
		return system.Attach(t, s, 0, v, system.AttachOptions{Capability: capability, Pod: pod})
	}
	a := withGroup("5555", "second")
	assert.Equal(t, system.Shell(t, a, `stat -c %g:%A "$V"`), "5555:drwxrws---")
	assert.Equal(t, system.Shell(t, a, `stat -c %g "$V/dir" "$V/dir/file"`), "5555\n5555")
	system.Shell(t, a, `setpriv --reuid 1234 --regid 1234 --groups 5555 sh -c 'echo mine > "$V/by-a-pod"'`)
	assert.Equal(t, system.Shell(t, a, `stat -c %u:%g "$V/by-a-pod"`), "1234:5555")

	// The root matches: the driver does not change its content again.
	system.Shell(t, a, `chgrp 77 "$V/dir/file"`)
	assert.NilError(t, a.Detach(t.Context()))
	a = withGroup("5555", "third")
	assert.Equal(t, system.Shell(t, a, `stat -c %g "$V/dir/file"`), "77")
}

func TestNodeDriverRestartedBetweenStageAndUnstage(t *testing.T) {
	s := newSystem(t, 1)
	a := system.Attach(t, s, 0, system.Create(t, s, "v"), system.AttachOptions{})
	system.Shell(t, a, `echo x > "$V/file"`)
	assert.NilError(t, s.Nodes[0].Driver.Kill())
	system.Shell(t, a, `cat "$V/file"`)
	assert.NilError(t, s.Nodes[0].Driver.Start())
	used, total, err := a.Usage(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, total, 64*mib)
	assert.Assert(t, used > 0)
	assert.NilError(t, a.Detach(t.Context()))
	assertUnmounted(t, a)
}

func assertUnmounted(t *testing.T, a *system.Attachment) {
	t.Helper()
	mounts, err := a.Node.Run("cat", "/proc/self/mountinfo")
	assert.NilError(t, err)
	assert.Assert(t, !strings.Contains(mounts, a.Staging) && !strings.Contains(mounts, a.Target), mounts)
	left, err := os.ReadDir(a.Staging)
	assert.NilError(t, err)
	assert.Equal(t, len(left), 0, "%v", left)
	_, err = os.Stat(a.Target)
	assert.ErrorIs(t, err, os.ErrNotExist)
}

// After a reboot the mounts are gone and the directories still exist. The driver must not write
// into them.
func TestWorkerRebooted(t *testing.T) {
	s := newSystem(t, 1)
	v := system.Create(t, s, "v")
	a := system.Attach(t, s, 0, v, system.AttachOptions{})
	system.Shell(t, a, `echo before > "$V/file"; sync "$V/file"`)
	assert.NilError(t, s.Nodes[0].Reboot())
	_ = s.Nodes[0].Driver.Kill() // the driver ended with the node; this resets its state in the test
	assert.NilError(t, s.Nodes[0].Driver.Start())

	assert.ErrorContains(t, a.Publish(t.Context()), "FailedPrecondition", "published without being staged")
	assert.NilError(t, a.Stage(t.Context()))
	assert.NilError(t, a.Publish(t.Context()))
	assert.Equal(t, system.Shell(t, a, `cat "$V/file"`), "before")
	assert.NilError(t, a.Detach(t.Context()))
	assertUnmounted(t, a)
}

// A volume that was not staged again after a reboot can also be unstaged.
func TestWorkerRebootedAndVolumeNotUsedAgain(t *testing.T) {
	s := newSystem(t, 1)
	a := system.Attach(t, s, 0, system.Create(t, s, "v"), system.AttachOptions{})
	assert.NilError(t, s.Nodes[0].Reboot())
	_ = s.Nodes[0].Driver.Kill()
	assert.NilError(t, s.Nodes[0].Driver.Start())
	assert.NilError(t, a.Detach(t.Context()))
	assertUnmounted(t, a)
}

// A dead server blocks processes that use the mount, but neither the driver nor the kubelet that
// calls it.
func TestServerStoppedWhileInUse(t *testing.T) {
	s := system.New(t, system.Options{
		Lab:     lab.Options{Nodes: 1},
		NodeEnv: []string{"DRIVER_UNMOUNT_TIMEOUT=5s", "DRIVER_STAT_TIMEOUT=2s"},
	})
	a := system.Attach(t, s, 0, system.Create(t, s, "v"), system.AttachOptions{})
	system.Shell(t, a, `echo x > "$V/file"`)
	assert.NilError(t, s.Lab.StopNFSServer())
	assert.NilError(t, s.Agent.Kill())

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, _, err := a.Usage(ctx)
	assert.Assert(t, ctx.Err() == nil, "the stats call hung")
	assert.Assert(t, err != nil, "stats of a volume that nobody can reach")

	ctx, cancel = context.WithTimeout(t.Context(), 45*time.Second)
	defer cancel()
	assert.NilError(t, a.Unpublish(ctx))
	assert.NilError(t, a.Unstage(ctx))
	assertUnmounted(t, a)

	assert.NilError(t, s.Lab.StartNFSServer())
	assert.NilError(t, s.Agent.Start())
}

// A pod that keeps writing must not notice a restart or a kill of the agent.
func TestAgentRestartedWithLiveMounts(t *testing.T) {
	s := newSystem(t, 1)
	a := system.Attach(t, s, 0, system.Create(t, s, "v"), system.AttachOptions{})
	stopWriting := keepWriting(t, s.Nodes[0], a)
	for _, end := range []func() error{s.Agent.Stop, s.Agent.Kill} {
		assert.NilError(t, end())
		awaitProgress(t, a)
		assert.NilError(t, s.Agent.Start())
		awaitProgress(t, a)
	}
	stopWriting()
}

// keepWriting runs a pod that writes until it is stopped. No write may fail.
func keepWriting(t *testing.T, node *system.Node, a *system.Attachment) (stop func()) {
	t.Helper()
	writer := node.Command(t.Context(), "env", "V="+a.Target, "sh", "-ec",
		`i=0; while [ ! -e "$V/stop" ]; do i=$((i+1)); echo $i > "$V/count"; sync "$V/count"; done`)
	var out strings.Builder
	writer.Stderr = &out
	assert.NilError(t, writer.Start())
	awaitProgress(t, a)
	return func() {
		t.Helper()
		system.Shell(t, a, `touch "$V/stop"`)
		assert.NilError(t, writer.Wait(), out.String())
	}
}

// awaitProgress waits until the writer in the pod has written again.
func awaitProgress(t *testing.T, a *system.Attachment) {
	t.Helper()
	const script = `cat "$V/count" 2>/dev/null || true`
	before := system.Shell(t, a, script)
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if now, err := a.Shell(script); err == nil && now != "" && now != before {
			return poll.Success()
		}
		return poll.Continue("the count stays at %q", before)
	}, poll.WithTimeout(2*time.Minute), poll.WithDelay(50*time.Millisecond))
}

// A node has a stale handle after its export was revoked and granted again.
func TestStaleMountIsReplaced(t *testing.T) {
	s := newSystem(t, 1)
	v := system.Create(t, s, "v")
	a := system.Attach(t, s, 0, v, system.AttachOptions{})
	system.Shell(t, a, `echo x > "$V/file"`)
	assert.NilError(t, s.DeleteVolumeByForce(t.Context(), a))
	v2 := system.Create(t, s, "v")
	assert.Equal(t, v2.GetVolumeId(), v.GetVolumeId())
	assert.NilError(t, a.ControllerPublish(t.Context()))
	_, err := a.Shell(`ls "$V"`)
	assert.ErrorContains(t, err, "Stale")
	assert.NilError(t, a.Unpublish(t.Context()))
	assert.NilError(t, a.Stage(t.Context()))
	assert.NilError(t, a.Publish(t.Context()))
	assert.Equal(t, system.Shell(t, a, `ls "$V"; echo y > "$V/new"`), "")
}
