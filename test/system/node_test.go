//go:build lab

package system_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/system"
)

// kernelEngine starts no process per export, which suits tests with many.
func kernelEngine(o system.Options) system.Options {
	o.Lab.NFS = lab.Unanswered
	o.AgentEnv = append(o.AgentEnv, "AGENT_NFS_EXPORTER=kernel")
	return o
}

func Test200VolumesOnANode(t *testing.T) {
	const many, atOnce = 200, 8
	s := system.New(t, kernelEngine(system.Options{Lab: lab.Options{Nodes: 1, PoolSize: 16 << 30}}))
	all := make([]*system.Attachment, many)
	each := func(do func(i int) error) time.Duration {
		begin := time.Now()
		next := make(chan int)
		var wait sync.WaitGroup
		for range atOnce {
			wait.Go(func() {
				for i := range next {
					assert.Check(t, do(i))
				}
			})
		}
		for i := range many {
			next <- i
		}
		close(next)
		wait.Wait()
		return time.Since(begin)
	}
	took := each(func(i int) (err error) {
		v, err := s.CreateVolume(t.Context(), fmt.Sprintf("v%d", i), 16*mib, nil)
		if err != nil {
			return err
		}
		all[i], err = s.Attach(t.Context(), s.Nodes[0], v, system.AttachOptions{})
		return err
	})
	t.Logf("%d volumes created and attached, %d at once: %v", many, atOnce, took)
	if t.Failed() {
		return
	}
	// Two mounts each.
	mounts, err := s.Nodes[0].Run("sh", "-c", `grep -c "fast-v.* nfs4 " /proc/self/mountinfo`)
	assert.NilError(t, err)
	assert.Equal(t, mounts, fmt.Sprint(2*many))
	assert.Equal(t, system.Shell(t, all[many-1], `echo x > "$V/f"; cat "$V/f"`), "x")
	volume, storage := nodeHealth(t, all[0])
	assert.Equal(t, len(volume)+len(storage), 0, "%v %v", volume, storage)
	begin := time.Now()
	_, total, err := all[0].Usage(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, total, 16*mib)
	t.Logf("stats of one of them: %v", time.Since(begin))
	assert.NilError(t, s.Nodes[0].Driver.Kill())
	assert.NilError(t, s.Nodes[0].Driver.Start())
	t.Logf("all detached after: %v", each(func(i int) error { return all[i].Detach(t.Context()) }))
	for _, a := range []*system.Attachment{all[0], all[many-1]} {
		assertUnmounted(t, a)
	}
}

func TestAWorkerChangesItsAddress(t *testing.T) {
	s := system.New(t, system.Options{Lab: lab.Options{Nodes: 1}, NodeEnv: hurried, NFSMountOptions: "timeo=20,retrans=1"}) // drops the old connection sooner
	n := s.Nodes[0]
	a := system.Attach(t, s, 0, system.Create(t, s, "v"), system.AttachOptions{})
	system.Shell(t, a, `echo before > "$V/file"; sync "$V/file"`)
	oldID, moved := n.ID, netip.MustParseAddr("10.77.0.200")
	_, err := n.Run("sh", "-ec", fmt.Sprintf("ip address add %s/24 dev eth0; ip address delete %s/24 dev eth0; ip address replace %s/24 dev eth0", moved, n.IP, moved))
	assert.NilError(t, err)
	assert.NilError(t, n.Move(moved))
	assert.Assert(t, n.ID != oldID && strings.HasSuffix(n.ID, "|10.77.0.200"), n.ID)

	// The server does not know the new address. The mounts are unusable, and can still be unmounted.
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if volume, _ := nodeHealth(t, a); !slices.Contains(volume, "ExportMissing") && !slices.Contains(volume, "MountStale") {
			return poll.Continue("%v", volume)
		}
		return poll.Success()
	}, poll.WithTimeout(2*time.Minute), poll.WithDelay(time.Second))
	for _, step := range []func(context.Context) error{a.Unpublish, a.Unstage} {
		ctx, cancel := context.WithTimeout(t.Context(), 45*time.Second)
		defer cancel()
		assert.NilError(t, step(ctx))
	}
	assertUnmounted(t, a)
	_, err = s.CSI.ControllerUnpublishVolume(t.Context(), &csi.ControllerUnpublishVolumeRequest{VolumeId: a.Volume.GetVolumeId(), NodeId: oldID})
	assert.NilError(t, err)

	for _, step := range []func(context.Context) error{a.ControllerPublish, a.Stage, a.Publish} {
		assert.NilError(t, step(t.Context()))
	}
	assert.Equal(t, system.Shell(t, a, `cat "$V/file"`), "before")
	hasNodeHealth(t, a)
}

// When a driver is killed at any moment of any call, its successor completes the repeated call.
func TestNodeDriverKilledInTheMiddle(t *testing.T) {
	s := newSystem(t, 1)
	n := s.Nodes[0]
	a := s.NewAttachment(n, system.Create(t, s, "v"), system.AttachOptions{})
	assert.NilError(t, a.ControllerPublish(t.Context()))
	interrupted := 0
	for round := range 4 {
		for i, step := range []func(context.Context) error{a.Stage, a.Publish, a.Unpublish, a.Unstage} {
			answer := make(chan error, 1)
			go func() { answer <- step(t.Context()) }()
			moment := time.NewTimer(time.Duration(round*(8-2*i)) * time.Millisecond)
			<-moment.C
			assert.NilError(t, n.Driver.Kill())
			if err := <-answer; err != nil {
				interrupted++
			}
			assert.NilError(t, n.Driver.Start())
			assert.NilError(t, step(t.Context()))
		}
		assertUnmounted(t, a)
	}
	t.Logf("%d of 16 calls were interrupted", interrupted)
	assert.Assert(t, interrupted > 0)
	assert.NilError(t, a.ControllerUnpublish(t.Context()))
}

// Options come from the class's parameter (in the publish context) and, before them, from the
// mountOptions of class or PersistentVolume, which an orchestrator sends with the capability.
func TestMountOptionsReachTheKernel(t *testing.T) {
	s := system.New(t, system.Options{Lab: lab.Options{Nodes: 1}, NFSMountOptions: "vers=4.1,timeo=70,nodiratime"})
	v := system.Create(t, s, "v")
	capability := system.Shared()
	capability.GetMount().MountFlags = []string{"timeo=50,acregmin=7"}
	a := system.Attach(t, s, 0, v, system.AttachOptions{Capability: capability})
	options := "," + system.Shell(t, a, `findmnt -no OPTIONS --target "$V"`) + ","
	for _, want := range []string{"vers=4.1", "hard", "timeo=50", "acregmin=7", "nodiratime"} {
		assert.Assert(t, is.Contains(options, ","+want+","))
	}
	for flag, reason := range map[string]string{"vers=3": "only NFS versions", "bg": "after the call has failed", "addr=10.0.0.1": "named by the volume"} {
		capability := system.Shared()
		capability.GetMount().MountFlags = []string{flag}
		refused := s.NewAttachment(s.Nodes[0], v, system.AttachOptions{Capability: capability, Pod: "refused"})
		assert.NilError(t, refused.ControllerPublish(t.Context()))
		err := refused.Stage(t.Context())
		assert.Equal(t, status.Code(err), codes.InvalidArgument, "%v", err)
		assert.ErrorContains(t, err, reason)
		_, err = s.CSI.CreateVolume(t.Context(), &csi.CreateVolumeRequest{
			Name: "refused", Parameters: s.ClassParameters(), VolumeCapabilities: []*csi.VolumeCapability{capability},
		})
		assert.Equal(t, status.Code(err), codes.InvalidArgument, "%v", err)
		assert.ErrorContains(t, err, reason)
	}
}

func TestALongNodeNameAndIPv6(t *testing.T) {
	name := strings.Repeat("n", 126) + "." + strings.Repeat("o", 126)
	s := system.New(t, system.Options{
		Lab: lab.Options{Nodes: 1}, NodeIPv6: true, NodeEnv: []string{"DRIVER_NODE_ID=" + name},
	})
	assert.Assert(t, len(s.Nodes[0].ID) <= 192, "%d bytes", len(s.Nodes[0].ID))
	assert.Assert(t, strings.HasSuffix(s.Nodes[0].ID, "|"+s.Nodes[0].IP6.String()))
	a := system.Attach(t, s, 0, system.Create(t, s, "v"), system.AttachOptions{})
	system.Shell(t, a, `echo x > "$V/file"`)
	listed, err := s.CSI.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
	assert.NilError(t, err)
	assert.DeepEqual(t, listed.GetEntries()[0].GetStatus().GetPublishedNodeIds(), []string{s.Nodes[0].ID})
}

func TestProbeIsFalseUntilTheNodeCanMount(t *testing.T) {
	s := newSystem(t, 1)
	n := s.Nodes[0]
	probe := func() bool {
		answer, err := n.Identity.Probe(t.Context(), &csi.ProbeRequest{})
		assert.NilError(t, err)
		return answer.GetReady().GetValue()
	}
	assert.Assert(t, probe())
	assert.NilError(t, n.Driver.Stop())
	n.Driver.SetEnv("DRIVER_NODE_IP=", "DRIVER_STORAGE_INTERFACE=storage0")
	started := make(chan error, 1)
	go func() { started <- n.Driver.Start() }()
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if strings.Contains(n.Driver.Log(), "not ready") {
			return poll.Success()
		}
		return poll.Continue("the log says nothing:\n%s", n.Driver.Tail())
	}, poll.WithTimeout(2*time.Minute), poll.WithDelay(50*time.Millisecond))
	assert.Assert(t, !probe())
	assert.Assert(t, is.Contains(n.Driver.Tail(), "storage0"))
	_, err := n.CSI.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	assert.Equal(t, status.Code(err), codes.Unavailable)

	_, err = n.Run("sh", "-ec", "ip link add storage0 type dummy; ip address add 10.78.0.9/24 dev storage0; ip link set storage0 up")
	assert.NilError(t, err)
	assert.NilError(t, <-started)
	assert.Assert(t, probe())
}

func TestNodeMetricsAndLogs(t *testing.T) {
	s := system.New(t, system.Options{Lab: lab.Options{Nodes: 1}, NodeEnv: append(slices.Clone(hurried), "DRIVER_METRICS_ADDR=:9180", "LOG_FORMAT=logfmt")})
	n := s.Nodes[0]
	a := system.Attach(t, s, 0, system.Create(t, s, "v"), system.AttachOptions{})
	inside := n.Command(t.Context(), "env", "V="+a.Target, "sh", "-ec", `cd "$V"; echo inside >pid; exec sleep infinity`)
	assert.NilError(t, inside.Start())
	t.Cleanup(func() {
		_ = inside.Process.Kill()
		_ = inside.Wait()
	})
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if _, err := a.Shell(`test -s "$V/pid"`); err != nil {
			return poll.Continue("%v", err)
		}
		return poll.Success()
	}, poll.WithTimeout(2*time.Minute), poll.WithDelay(50*time.Millisecond))
	_, _, err := a.Usage(t.Context())
	assert.NilError(t, err)
	assert.NilError(t, a.Detach(t.Context()))

	answer, err := http.Get(fmt.Sprintf("http://%s:9180/metrics", n.IP))
	assert.NilError(t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	assert.NilError(t, err)
	for _, want := range []string{
		`btrfs_nfs_csi_csi_requests_total{code="OK",method="NodeStageVolume"} 1`,
		`btrfs_nfs_csi_csi_requests_total{code="OK",method="NodeGetVolumeStats"} 1`,
		`btrfs_nfs_csi_csi_request_duration_seconds_count{method="NodePublishVolume"} 1`,
		`btrfs_nfs_csi_node_mount_operations_total{code="OK",operation="mount"} 1`,
		`btrfs_nfs_csi_node_mount_operations_total{code="OK",operation="unbind"} 1`,
		`btrfs_nfs_csi_node_mount_operation_duration_seconds_count{operation="unmount"} 1`,
		`btrfs_nfs_csi_agent_requests_total{code="OK",operation="Usage"} 1`,
	} {
		assert.Check(t, is.Contains(string(text), want))
	}

	log := n.Driver.Log()
	for _, method := range []string{"NodeStageVolume", "NodePublishVolume", "NodeUnpublishVolume", "NodeUnstageVolume"} {
		line := lineWith(log, "level=info", "msg=done", "method="+method+" ")
		for _, want := range []string{"node=" + n.Name, "volume=fast|v", "request_id=", "duration=", "code=OK"} {
			assert.Check(t, is.Contains(line, want), "%s", method)
		}
	}
	assert.Check(t, is.Contains(lineWith(log, "cannot be unmounted", "level=warn"), "request_id="), "what is logged within a call")
	token := a.UsageToken()
	assert.Assert(t, token != "")
	assert.Assert(t, !strings.Contains(log, token), "the usage token is in the log")
	assert.Assert(t, is.Contains(log, "***stripped***"))
	asked := requestIDOf.FindStringSubmatch(lineWith(log, "method=NodeGetVolumeStats", "request_id="))
	assert.Assert(t, asked != nil, "the log has no NodeGetVolumeStats")
	assert.Check(t, is.Contains(lineWith(s.Agent.Log(), "request_id="+asked[1]), "/usage"), "the agent's log has the same request ID")
}

var requestIDOf = regexp.MustCompile(`request_id=(\S+)`)

func lineWith(log string, parts ...string) string {
	for line := range strings.Lines(log) {
		if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(line, p) }) {
			return line
		}
	}
	return "no line with " + strings.Join(parts, ", ")
}

// A pod that writes waits while the server is away, and continues without an error. Other calls are
// answered in time.
func TestTheServerIsAwayDuringIO(t *testing.T) {
	s := system.New(t, system.Options{Lab: lab.Options{Nodes: 1}, NodeEnv: hurried})
	a := system.Attach(t, s, 0, system.Create(t, s, "v"), system.AttachOptions{})
	stopWriting := keepWriting(t, s.Nodes[0], a)
	assert.NilError(t, s.Lab.Storage.CutNetwork())
	ctx, cancel := context.WithTimeout(t.Context(), 2*healthTime)
	defer cancel()
	other := s.NewAttachment(s.Nodes[0], a.Volume, system.AttachOptions{Pod: "other"})
	err := other.Publish(ctx)
	assert.Check(t, is.Equal(status.Code(err), codes.Unavailable), "%v", err)
	volume, _ := nodeHealth(t, a)
	assert.Check(t, slices.Contains(volume, "ServerNotResponding"), "%v", volume)
	_, _, err = a.Usage(ctx)
	assert.Check(t, is.Equal(status.Code(err), codes.Unavailable), "%v", err)
	assert.Check(t, ctx.Err())
	assert.NilError(t, s.Lab.Storage.RestoreNetwork())
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if volume, _ := nodeHealth(t, a); len(volume) > 0 {
			return poll.Continue("%v", volume)
		}
		return poll.Success()
	}, poll.WithTimeout(2*time.Minute), poll.WithDelay(time.Second))
	awaitProgress(t, a)
	stopWriting()
}

// A load balancer adds its addresses to the nodes. Servers never see them.
func TestVirtualAddressesOfANode(t *testing.T) {
	s := newSystem(t, 1)
	n := s.Nodes[0]
	v := system.Create(t, s, "v")
	own := n.IP.String()
	for i, c := range []struct{ prepare, env string }{
		{`ip address add 10.77.0.200/32 dev lo`, "DRIVER_STORAGE_CIDR=10.77.0.0/24"},
		{`ip address del 10.77.0.200/32 dev lo; ip address flush dev eth0 scope global; ip address add 10.77.0.200/32 dev eth0; ip address add ` + own + `/24 dev eth0`, "DRIVER_STORAGE_CIDR=10.77.0.0/24"},
		{`true`, "DRIVER_STORAGE_INTERFACE=eth0"},
	} {
		out, err := n.Run("sh", "-ec", c.prepare)
		assert.NilError(t, err, out)
		assert.NilError(t, n.Driver.Stop())
		n.Driver.SetEnv("DRIVER_NODE_IP=", "DRIVER_STORAGE_INTERFACE=", "DRIVER_STORAGE_CIDR=", c.env)
		assert.NilError(t, n.Driver.Start())
		info, err := n.CSI.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
		assert.NilError(t, err)
		assert.Assert(t, strings.HasSuffix(info.NodeId, "|"+own), info.NodeId)
		a, err := s.Attach(t.Context(), n, v, system.AttachOptions{Pod: fmt.Sprintf("pod%d", i)})
		assert.NilError(t, err)
		assert.NilError(t, a.Detach(t.Context()))
	}

	// The message when the wrong one is used.
	assert.NilError(t, n.Driver.Stop())
	n.Driver.SetEnv("DRIVER_STORAGE_INTERFACE=", "DRIVER_NODE_IP=10.77.0.200")
	assert.NilError(t, n.Driver.Start())
	info, err := n.CSI.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	assert.NilError(t, err)
	right := n.ID
	n.ID = info.NodeId
	a, err := s.Attach(t.Context(), n, v, system.AttachOptions{Pod: "wrong"})
	assert.ErrorContains(t, err, "registered as 10.77.0.200 and reaches the server from "+own+": set storageCIDR")
	assert.NilError(t, a.Detach(t.Context()))
	n.ID = right
}
