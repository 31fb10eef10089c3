package driver_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/driver"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/test/mounttest"
)

// soon fails if a call to a server that does not answer takes longer than its deadlines.
func (env *testEnv) soon(t *testing.T, call func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- call() }()
	select {
	case err := <-done:
		return err
	case <-time.After(2 * mounttest.Patience(env.backend)):
		t.Fatal("the call hangs")
		return nil
	}
}

func TestTheServerDies(t *testing.T) {
	env := newTestEnv(t)
	f := env.backend.NewFragile(t)
	v, healthy := env.volumeOf(f.Source, rwx), env.volume(t, rwx)

	f.Silence()
	hasCode(t, env.soon(t, func() error { return v.stage(t) }), codes.Unavailable) // no answer, or no route to the server
	assert.Equal(t, len(env.mounts(t)), 0)
	f.Revive()
	assert.NilError(t, v.stage(t))
	assert.NilError(t, v.publish(t, "pod", false))

	f.Silence()
	hasCode(t, env.soon(t, func() error { return v.publish(t, "other", false) }), codes.Unavailable, "does not answer")
	hasCode(t, env.soon(t, func() error { return v.stage(t) }), codes.Unavailable)
	stats, err := v.stats(t, v.target("pod"))
	assert.NilError(t, err, "the agent answers")
	assert.Equal(t, stats.Usage[0].Total, int64(1<<30))
	env.agent.server.Close()
	hasCode(t, env.soon(t, func() error { _, err := v.stats(t, v.target("pod")); return err }), codes.Unavailable)
	assert.NilError(t, env.soon(t, func() error { return healthy.stage(t) }))
	assert.NilError(t, env.soon(t, func() error { return healthy.publish(t, "pod", false) }))

	env.restart(t)
	for range 2 {
		assert.NilError(t, env.soon(t, func() error { return v.unpublish(t, "pod") }))
	}
	for range 2 {
		assert.NilError(t, env.soon(t, func() error { return v.unstage(t) }))
	}
	isEmpty(t, v.staging)
	f.Revive()
}

func TestAnExportIsRevokedAndGivenAgain(t *testing.T) {
	env := newTestEnv(t)
	f := env.backend.NewFragile(t)
	v := env.volumeOf(f.Source, rwx)
	assert.NilError(t, v.stage(t))
	assert.NilError(t, v.publish(t, "old", false))
	f.Revoke()
	assert.Assert(t, env.soon(t, func() error { return v.publish(t, "new", false) }) != nil)
	f.Restore()
	assert.NilError(t, v.publish(t, "new", false), "the orchestrator does not stage again")
	assert.NilError(t, v.publish(t, "old", false))
	for _, pod := range []string{"old", "new"} {
		assert.NilError(t, env.backend.Mounter().Check(t.Context(), v.target(pod)))
		assert.NilError(t, v.unpublish(t, pod))
	}
	assert.NilError(t, v.unstage(t))
	assert.Equal(t, len(env.mounts(t)), 0)
}

// fake implements Mounts with its functions.
type fake struct {
	driver.Mounts
	mount func(ctx context.Context, options []string) error
	check func(ctx context.Context) error
	group func() error
	ended []string // by EndGroup
}

func (f *fake) Mount(ctx context.Context, _ nfsmount.Source, _ string, options []string) error {
	return f.mount(ctx, options)
}

func (f *fake) Check(ctx context.Context, dir string) error {
	if f.check == nil {
		return f.Mounts.Check(ctx, dir)
	}
	return f.check(ctx)
}

func (f *fake) SetGroup(ctx context.Context, dir, target string, gid uint32) error {
	if f.group == nil {
		return f.Mounts.SetGroup(ctx, dir, target, gid)
	}
	return f.group()
}

func (f *fake) EndGroup(_ context.Context, target string) { f.ended = append(f.ended, target) }

func TestAPodThatEndsNoLongerWaitsForTheGroup(t *testing.T) {
	env := newTestEnv(t)
	v := env.volume(t, rwx)
	assert.NilError(t, v.stage(t))
	v.group = "2000"
	mounts := &fake{Mounts: env.backend.Mounter(), group: func() error { return context.DeadlineExceeded }}
	env.NodeServer = env.node(t, mounts)
	hasCode(t, v.publish(t, "pod", false), codes.DeadlineExceeded)
	assert.Equal(t, len(mounts.ended), 0)
	assert.NilError(t, v.unpublish(t, "pod"))
	assert.DeepEqual(t, mounts.ended, []string{v.target("pod")})
}

func TestAnotherCallForAVolumeIsAborted(t *testing.T) {
	env := newTestEnv(t)
	v, other := env.volume(t, rwx), env.volume(t, rwx)
	entered, release := make(chan struct{}), make(chan struct{})
	first := true
	env.NodeServer = driver.OneAtATime(env.node(t, &fake{Mounts: env.backend.Mounter(), mount: func(context.Context, []string) error {
		if first {
			first = false
			close(entered)
			<-release
		}
		return nil
	}}))
	done := make(chan error, 1)
	go func() { done <- v.stage(t) }()
	<-entered
	for _, call := range []func() error{
		func() error { return v.stage(t) },
		func() error { return v.publish(t, "pod", false) },
		func() error { return v.unpublish(t, "pod") },
		func() error { return v.unstage(t) },
	} {
		hasCode(t, call(), codes.Aborted, v.id)
	}
	assert.NilError(t, other.unstage(t), "another volume goes on")
	_, err := v.stats(t, "/nowhere/pod")
	hasCode(t, err, codes.NotFound)
	close(release)
	assert.NilError(t, <-done)
	assert.NilError(t, v.unstage(t))
}

func TestOptionsOfTheCapabilityGoBeforeThoseOfTheClass(t *testing.T) {
	env := newTestEnv(t)
	v := env.volume(t, rwx)
	var got []string
	env.NodeServer = env.node(t, &fake{mount: func(_ context.Context, options []string) error { got = options; return nil }})
	request := v.stageRequest()
	request.PublishContext["nfsMountOptions"] = "vers=4.1,nconnect=4,noatime"
	request.VolumeCapability.GetMount().MountFlags = []string{"nconnect=8", "soft"}
	_, err := env.NodeStageVolume(t.Context(), request)
	assert.NilError(t, err)
	assert.DeepEqual(t, got, []string{"vers=4.1", "soft", "retry=0", "nconnect=8", "noatime"})
}

// The parameter that ends the delegations belongs to a kernel module, which the first mount loads.
func TestDirectoryDelegationsEndWithASharedVolume(t *testing.T) {
	env := newTestEnv(t)
	v := env.volume(t, rwx)
	var calls []string
	n := env.node(t, &fake{mount: func(context.Context, []string) error { calls = append(calls, "mount"); return nil }})
	var failure error
	n.EndDirectoryDelegations = func() error { calls = append(calls, "end"); return failure }
	env.NodeServer = n
	for options, want := range map[string][]string{
		"lookupcache=none": {"mount", "end"}, "hard,lookupcache=none": {"mount", "end"},
		"lookupcache=all": {"mount"}, "lookupcache=positive": {"mount"}, "": {"mount"},
	} {
		for _, failure = range []error{nil, unix.EROFS} {
			calls, v.more = nil, map[string]string{"nfsMountOptions": options}
			assert.NilError(t, v.stage(t))
			assert.DeepEqual(t, calls, want)
		}
	}
}

func TestErrorsGetTheirCodes(t *testing.T) {
	env := newTestEnv(t)
	v := env.volume(t, rwx)
	for _, c := range []struct {
		err  error
		want codes.Code
	}{
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{context.Canceled, codes.Canceled},
		{errors.Join(nfsmount.ErrUnresponsive, context.DeadlineExceeded), codes.Unavailable},
		{&nfsmount.MountError{Output: "mount.nfs: Connection refused", Err: errors.New("exit status 32")}, codes.Unavailable},
		{&nfsmount.MountError{Output: "mount.nfs: access denied by server", Err: errors.New("exit status 32")}, codes.Internal},
		{nfsmount.ErrConflict, codes.AlreadyExists},
		{nfsmount.ErrTarget, codes.FailedPrecondition},
		{nfsmount.ErrStale, codes.Unavailable},
		{nfsmount.ErrBusy, codes.Internal},
		{errors.New("what"), codes.Internal},
	} {
		env.NodeServer = env.node(t, &fake{Mounts: env.backend.Mounter(), mount: func(context.Context, []string) error { return c.err }})
		hasCode(t, v.stage(t), c.want)
	}
}

func TestADeniedMountNamesTheAddress(t *testing.T) {
	env := newTestEnv(t)
	v := env.volume(t, rwx)
	denied := &nfsmount.MountError{Output: "mount.nfs: access denied by server", Err: errors.New("exit status 32")}
	n := env.node(t, &fake{Mounts: env.backend.Mounter(), mount: func(context.Context, []string) error { return denied }})
	env.NodeServer = n
	source, known := netip.MustParseAddr("10.9.0.6"), error(nil)
	n.SourceTo = func(server string) (netip.Addr, error) {
		assert.Equal(t, server, v.source.Server)
		return source, known
	}
	assert.ErrorContains(t, v.stage(t), "registered as 10.0.0.7 and reaches the server from 10.9.0.6: set storageCIDR")
	for _, plain := range []func(){
		func() { known = errors.New("no route") },
		func() { source, known = netip.MustParseAddr("10.0.0.7"), nil },
		func() { n.SourceTo = nil },
	} {
		plain()
		err := v.stage(t)
		assert.ErrorContains(t, err, "access denied")
		assert.Assert(t, !strings.Contains(err.Error(), "registered"), "%v", err)
	}
}

// For the kubelet, a final error means that nothing is mounted, and it would not unmount.
func TestAnErrorIsNotFinalWhileAMountIsInPlace(t *testing.T) {
	env := newTestEnv(t)
	v := env.volume(t, rwx)
	v.group = "2000"
	broken := errors.New("as the test says")
	mounts := &fake{Mounts: env.backend.Mounter()}
	n := env.node(t, mounts)
	env.NodeServer = driver.OneAtATime(n)
	fails := func(err error) {
		t.Helper()
		hasCode(t, err, codes.Unavailable)
		assert.Assert(t, len(env.mounts(t)) > 0)
	}

	mounts.mount = func(context.Context, []string) error { return broken }
	hasCode(t, v.stage(t), codes.Internal)
	assert.Equal(t, len(env.mounts(t)), 0)
	mounts.mount = func(ctx context.Context, options []string) error {
		return env.backend.Mounter().Mount(ctx, v.source, v.staging+"/data", options)
	}
	// Without its directory, the store can neither save nor delete a record.
	assert.NilError(t, os.RemoveAll(env.state))
	assert.NilError(t, os.WriteFile(env.state, nil, 0o600))
	fails(v.stage(t))
	mounts.mount = func(context.Context, []string) error { return broken }
	fails(v.stage(t))

	mounts.group = func() error { return broken }
	hasCode(t, v.publish(t, "pod", false), codes.Internal)
	mounts.group = nil
	assert.NilError(t, v.publish(t, "pod", false))
	mounts.group = func() error { return broken }
	fails(v.publish(t, "pod", false)) // as after a restart of the kubelet
	assert.NilError(t, unix.Unmount(v.staging+"/data", unix.MNT_DETACH))
	fails(v.publish(t, "pod", false))
	assert.NilError(t, v.unpublish(t, "pod"))
	hasCode(t, v.publish(t, "pod", false), codes.FailedPrecondition)

	hasCode(t, v.unstage(t), codes.Unavailable)
	assert.Equal(t, len(env.mounts(t)), 0)
	assert.NilError(t, os.Remove(env.state))
	assert.NilError(t, v.unstage(t))
}

func TestMountOperationsAreCounted(t *testing.T) {
	env := newTestEnv(t)
	v := env.volume(t, rwx)
	registry := prometheus.NewPedanticRegistry()
	env.NodeServer = env.node(t, driver.Measured(env.backend.Mounter(), registry))
	hasCode(t, v.publish(t, "pod", false), codes.FailedPrecondition)
	assert.NilError(t, v.stage(t))
	assert.NilError(t, v.publish(t, "pod", false))
	assert.NilError(t, v.unpublish(t, "pod"))
	assert.NilError(t, v.unstage(t))
	for _, operation := range []string{"mount", "unmount", "bind", "unbind", "check"} {
		assert.Equal(t, count(t, registry, operation, "OK"), 1.0, operation)
	}
	problems, err := testutil.GatherAndLint(registry)
	assert.NilError(t, err)
	assert.Equal(t, len(problems), 0, "%v", problems)
}

func count(t *testing.T, registry *prometheus.Registry, operation, code string) float64 {
	t.Helper()
	families, err := registry.Gather()
	assert.NilError(t, err)
	for _, family := range families {
		if family.GetName() != "btrfs_nfs_csi_node_mount_operations_total" {
			continue
		}
		for _, metric := range family.GetMetric() {
			labels := map[string]string{}
			for _, label := range metric.GetLabel() {
				labels[label.GetName()] = label.GetValue()
			}
			if labels["operation"] == operation && labels["code"] == code {
				return metric.GetCounter().GetValue()
			}
		}
	}
	return 0
}
