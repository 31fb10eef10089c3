package driver_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/test/mounttest"
)

// calls returns all node calls about a volume and a pod that uses it.
func (v *volume) calls(pod string) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"stage": func(ctx context.Context) error { _, err := v.env.NodeStageVolume(ctx, v.stageRequest()); return err },
		"publish": func(ctx context.Context) error {
			_, err := v.env.NodePublishVolume(ctx, v.publishRequest(pod, false))
			return err
		},
		"stats": func(ctx context.Context) error {
			_, err := v.env.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: v.id, VolumePath: v.target(pod)})
			return err
		},
		"health": func(ctx context.Context) error {
			_, err := v.env.NodeGetVolumeHealth(ctx, &csi.NodeGetVolumeHealthRequest{VolumeId: v.id, StagingTargetPath: v.staging, VolumePublishPath: v.target(pod)})
			return err
		},
		"storage health": func(ctx context.Context) error {
			_, err := v.env.NodeGetStorageHealth(ctx, &csi.NodeGetStorageHealthRequest{})
			return err
		},
		"unpublish": func(ctx context.Context) error {
			_, err := v.env.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: v.id, TargetPath: v.target(pod)})
			return err
		},
		"unstage": func(ctx context.Context) error {
			_, err := v.env.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging})
			return err
		},
	}
}

// A caller with a deadline shorter than the driver's gets an answer in time, whatever the server
// does.
func TestTheCallersDeadlineCounts(t *testing.T) {
	env := newTestEnv(t)
	f, g := env.backend.NewFragile(t), env.backend.NewFragile(t)
	staged, fresh := env.volumeOf(f.Source, rwx), env.volumeOf(g.Source, rwx)
	assert.NilError(t, staged.stage(t))
	assert.NilError(t, staged.publish(t, "pod", false))
	f.Silence()
	g.Silence()
	patience := env.backend.Limits().Stat // the shortest deadline of the driver
	in := func(name string, call func(context.Context) error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience/3)
		defer cancel()
		begin := time.Now()
		err := env.soon(t, func() error { return call(ctx) })
		took := time.Since(begin)
		t.Logf("%s: %v after %v", name, err, took)
		assert.Check(t, took < patience, "%s took %v of %v", name, took, patience/3)
	}
	in("stage, not staged", fresh.calls("pod")["stage"])
	calls := staged.calls("pod")
	for _, name := range []string{"stage", "publish", "stats", "health", "storage health", "unpublish", "unstage"} {
		in(name, calls[name])
	}
	f.Revive()
	g.Revive()
	assert.NilError(t, staged.unpublish(t, "pod"))
	assert.NilError(t, env.soon(t, func() error { return staged.unstage(t) }))
	assert.Equal(t, len(env.mounts(t)), 0)
}

func TestManyCallsAtOnce(t *testing.T) {
	env := newTestEnv(t)
	v := env.volume(t, rwx)
	var wait sync.WaitGroup
	for range 10 {
		for name, call := range v.calls("pod") {
			wait.Go(func() {
				err := call(t.Context())
				switch status.Code(err) {
				case codes.OK, codes.Aborted: // another call is in progress
				case codes.FailedPrecondition, codes.NotFound: // publish before stage, or stats of a volume that is not mounted
				default:
					t.Errorf("%s: %v", name, err)
				}
			})
		}
	}
	wait.Wait()
	assert.NilError(t, v.stage(t))
	assert.NilError(t, v.publish(t, "pod", false))
	assert.Equal(t, len(env.mounts(t)), 2)
	v.hasHealth(t, "pod", reasons{})
	assert.NilError(t, v.unpublish(t, "pod"))
	assert.NilError(t, v.unstage(t))
	assert.Equal(t, len(env.mounts(t)), 0)
	isEmpty(t, v.staging)
	isEmpty(t, env.state)
}

func TestNoFileStaysOpen(t *testing.T) {
	env := newTestEnv(t)
	f := env.backend.NewFragile(t)
	v := env.volumeOf(f.Source, rwx)
	round := func(silent bool) {
		assert.NilError(t, v.stage(t))
		assert.NilError(t, v.publish(t, "pod", false))
		_, err := v.stats(t, v.target("pod"))
		assert.NilError(t, err)
		_, err = v.health(t, "pod")
		assert.NilError(t, err)
		env.storageHealth(t)
		if silent {
			f.Silence()
			assert.Assert(t, v.publish(t, "other", false) != nil)
		}
		assert.NilError(t, v.unpublish(t, "pod"))
		assert.NilError(t, v.unstage(t))
		f.Revive()
	}
	round(false)
	before := len(openFiles(t))
	for range 10 {
		round(false)
	}
	round(true)
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if now := openFiles(t); len(now) > before {
			return poll.Continue("%d files were open, and now %v", before, now)
		}
		return poll.Success()
	}, poll.WithTimeout(90*time.Second)) // an NFS client retransmits after at most 60 s
}

// openFiles returns this process's open files. It ignores connections, which clients keep open for
// a while.
func openFiles(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	assert.NilError(t, err)
	var out []string
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.HasPrefix(target, "socket:") {
			out = append(out, target)
		}
	}
	return out
}

func TestEveryAccessMode(t *testing.T) {
	env := newTestEnv(t)
	for mode, want := range map[csi.VolumeCapability_AccessMode_Mode]struct {
		writable bool
		second   codes.Code // for a second target on this node
	}{
		csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER:        {true, codes.OK},
		csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY:   {false, codes.OK},
		csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY:    {false, codes.OK},
		csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER:  {true, codes.OK},
		csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER:   {true, codes.OK},
		csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER: {true, codes.FailedPrecondition},
		csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER:  {true, codes.OK},
	} {
		t.Run(mode.String(), func(t *testing.T) {
			v := env.volume(t, mode)
			assert.NilError(t, v.stage(t))
			assert.NilError(t, v.publish(t, "one", false))
			err := os.WriteFile(filepath.Join(v.target("one"), "f"), nil, 0o644)
			if want.writable {
				assert.NilError(t, err)
			} else {
				assert.ErrorIs(t, err, unix.EROFS)
			}
			hasCode(t, v.publish(t, "two", false), want.second)
			for _, pod := range []string{"one", "two"} {
				assert.NilError(t, v.unpublish(t, pod))
			}
			assert.NilError(t, v.publish(t, "reader", true))
			assert.ErrorIs(t, os.WriteFile(filepath.Join(v.target("reader"), "f"), nil, 0o644), unix.EROFS)
			assert.NilError(t, v.unpublish(t, "reader"))
			assert.NilError(t, v.unstage(t))
		})
	}
}

// The kubelet sends the first access mode of a PersistentVolume, external-attacher the widest. The
// node applies the mode that the volume was published with.
func TestThePublishedModeCounts(t *testing.T) {
	env := newTestEnv(t)
	for name, c := range map[string]struct {
		mode     csi.VolumeCapability_AccessMode_Mode // from the kubelet
		context  map[string]string
		readOnly bool // from the pod
		writable bool
	}{
		"ROX before RWX":                {rox, map[string]string{"accessMode": "MULTI_NODE_MULTI_WRITER", "readOnly": "false"}, false, true},
		"ROX before RWX, older context": {rox, nil, false, false},
		"a read-only pod":               {rox, map[string]string{"accessMode": "MULTI_NODE_MULTI_WRITER", "readOnly": "false"}, true, false},
		"RWX before ROX":                {rwx, map[string]string{"accessMode": "MULTI_NODE_READER_ONLY", "readOnly": "true"}, false, false},
		"a read-only volume":            {rwx, map[string]string{"accessMode": "MULTI_NODE_MULTI_WRITER", "readOnly": "true"}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			v := env.volume(t, c.mode)
			v.more = c.context
			for range 2 {
				assert.NilError(t, v.stage(t))
				assert.NilError(t, v.publish(t, "pod", c.readOnly))
			}
			err := os.WriteFile(filepath.Join(v.target("pod"), "f"), nil, 0o644)
			if c.writable {
				assert.NilError(t, err)
			} else {
				assert.ErrorIs(t, err, unix.EROFS)
			}
			assert.NilError(t, v.unpublish(t, "pod"))
			assert.NilError(t, v.unstage(t))
		})
	}
}

func TestAGroupOfAReadOnlyVolumeIsSkipped(t *testing.T) {
	env := newTestEnv(t)
	for name, change := range map[string]func(v *volume, r *csi.NodeStageVolumeRequest, p *csi.NodePublishVolumeRequest){
		"published read-only": func(_ *volume, _ *csi.NodeStageVolumeRequest, p *csi.NodePublishVolumeRequest) {
			p.PublishContext["accessMode"], p.PublishContext["readOnly"] = "MULTI_NODE_MULTI_WRITER", "true"
		},
		"mount option ro": func(_ *volume, r *csi.NodeStageVolumeRequest, p *csi.NodePublishVolumeRequest) {
			r.VolumeCapability.GetMount().MountFlags, p.VolumeCapability.GetMount().MountFlags = []string{"ro"}, []string{"ro"}
		},
		"class option ro": func(_ *volume, r *csi.NodeStageVolumeRequest, p *csi.NodePublishVolumeRequest) {
			r.PublishContext["nfsMountOptions"], p.PublishContext["nfsMountOptions"] = "ro", "ro"
		},
		"a read-only pod": func(_ *volume, _ *csi.NodeStageVolumeRequest, p *csi.NodePublishVolumeRequest) { p.Readonly = true },
	} {
		t.Run(name, func(t *testing.T) {
			v := env.volume(t, rwx)
			v.group = "2000"
			var log bytes.Buffer
			n := env.node(t, env.backend.Mounter())
			n.Logger = slog.New(slog.NewTextHandler(&log, nil))
			stage, publish := v.stageRequest(), v.publishRequest("pod", false)
			change(v, stage, publish)
			_, err := n.NodeStageVolume(t.Context(), stage)
			assert.NilError(t, err)
			_, err = n.NodePublishVolume(t.Context(), publish)
			assert.NilError(t, err)
			assert.Equal(t, strings.Count(log.String(), "skipped fsGroup"), 1, log.String())
			var s unix.Stat_t
			assert.NilError(t, unix.Stat(v.target("pod"), &s))
			assert.Equal(t, s.Gid, uint32(0))
			assert.NilError(t, v.unpublish(t, "pod"))
			assert.NilError(t, v.unstage(t))
		})
	}
	// The export is read-only, and an older controller does not say so.
	v := env.volume(t, rwx)
	v.group = "2000"
	env.NodeServer = env.node(t, &fake{Mounts: env.backend.Mounter(), mount: func(ctx context.Context, options []string) error {
		return env.backend.Mounter().Mount(ctx, v.source, v.staging+"/data", options)
	}, group: func() error { return fmt.Errorf("f: %w", unix.EROFS) }})
	assert.NilError(t, v.stage(t))
	assert.NilError(t, v.publish(t, "pod", false))
}

func TestTheSameVolumeStagedTwice(t *testing.T) {
	env := newTestEnv(t)
	v := env.volume(t, rwx)
	for range 10 {
		assert.NilError(t, v.stage(t))
	}
	assert.Equal(t, len(env.mounts(t)), 1)

	request := v.stageRequest()
	request.VolumeCapability.GetMount().MountFlags = []string{"ro"}
	_, err := env.NodeStageVolume(t.Context(), request)
	hasCode(t, err, codes.AlreadyExists, "read-only false")

	elsewhere := filepath.Join(env.dir, "plugins", "elsewhere")
	request = v.stageRequest()
	request.StagingTargetPath = elsewhere
	_, err = env.NodeStageVolume(t.Context(), request)
	assert.NilError(t, err)
	assert.Equal(t, len(env.mounts(t)), 2)
	assert.NilError(t, v.unstage(t))
	assert.Equal(t, len(env.mounts(t)), 1, "the other place has it still")
	_, err = env.NodeUnstageVolume(t.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: v.id, StagingTargetPath: elsewhere})
	assert.NilError(t, err)
	isEmpty(t, elsewhere)
}

// A process that does not end must not prevent the volume from moving to another node or back.
func TestAProcessStaysInside(t *testing.T) {
	env := newTestEnv(t)
	v := env.volume(t, rwx)
	assert.NilError(t, v.stage(t))
	assert.NilError(t, v.publish(t, "pod", false))
	inside, err := os.Create(filepath.Join(v.target("pod"), "f"))
	assert.NilError(t, err)
	defer inside.Close()
	assert.NilError(t, v.unpublish(t, "pod"))
	assert.NilError(t, v.unstage(t))
	assert.Equal(t, len(env.mounts(t)), 0)
	assert.NilError(t, v.stage(t))
	assert.NilError(t, v.publish(t, "pod", false))
	v.hasHealth(t, "pod", reasons{})
	assert.NilError(t, os.WriteFile(filepath.Join(v.target("pod"), "g"), []byte("x"), 0o644))
}

// The server stops answering at any point of an unstage. The unstage still ends in time.
func TestTheServerDiesDuringUnstage(t *testing.T) {
	env := newTestEnv(t)
	random := rand.New(rand.NewPCG(3, 4))
	for range 5 {
		f := env.backend.NewFragile(t)
		v := env.volumeOf(f.Source, rwx)
		poll.WaitOn(t, func(poll.LogT) poll.Result { // until the server of the previous round answers the client again
			if err := v.stage(t); err != nil {
				return poll.Continue("%v", err)
			}
			return poll.Success()
		}, poll.WithTimeout(90*time.Second))
		assert.NilError(t, v.publish(t, "pod", false))
		dirty(t, filepath.Join(v.target("pod"), "f"))
		begun, unstaged := make(chan struct{}), make(chan error, 1)
		go func() {
			close(begun)
			err := v.unpublish(t, "pod")
			if err == nil {
				err = v.unstage(t)
			}
			unstaged <- err
		}()
		<-begun
		moment := time.NewTimer(time.Duration(random.IntN(30)) * time.Millisecond)
		<-moment.C
		f.Silence()
		select {
		case err := <-unstaged:
			assert.NilError(t, err)
		case <-time.After(2 * mounttest.Patience(env.backend)):
			t.Fatal("the call hangs")
		}
		assert.Equal(t, len(env.mounts(t)), 0)
		isEmpty(t, v.staging)
		f.Revive()
	}
}

// dirty leaves dirty pages, which are not yet written to the server. The local backend's fragile
// volumes hold no files.
func dirty(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Logf("nothing to write back: %v", err)
		return
	}
	const size = 1 << 20
	assert.NilError(t, f.Truncate(size))
	mapped, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	assert.NilError(t, err)
	for i := range mapped {
		mapped[i] = 'x'
	}
	assert.NilError(t, unix.Munmap(mapped))
	go f.Close() // may hang with the server
}

// The driver is killed when the volume is mounted and has no record yet, or when it is unmounted
// and still has its record.
func TestTheDriverDiesInTheMiddle(t *testing.T) {
	env := newTestEnv(t)
	v := env.volume(t, rwx)
	assert.NilError(t, v.stage(t))
	kept, err := filepath.Glob(filepath.Join(env.state, "*"))
	assert.NilError(t, err)
	assert.Equal(t, len(kept), 1)
	content, err := os.ReadFile(kept[0])
	assert.NilError(t, err)
	assert.NilError(t, os.Remove(kept[0]))
	env.restart(t)
	assert.NilError(t, v.stage(t))
	assert.Equal(t, len(env.mounts(t)), 1)
	assert.NilError(t, v.publish(t, "pod", false))
	stats, err := v.stats(t, v.target("pod"))
	assert.NilError(t, err)
	assert.Equal(t, stats.Usage[0].Total, int64(1<<30), "whom to ask is kept again")

	assert.NilError(t, v.unpublish(t, "pod"))
	assert.NilError(t, v.unstage(t))
	assert.NilError(t, os.WriteFile(kept[0], content, 0o600))
	env.restart(t)
	assert.NilError(t, v.unstage(t))
	isEmpty(t, env.state)
}
