package driver_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/test/mounttest"
)

func TestEveryCallRepeatedAndTheDriverRestartedBetween(t *testing.T) {
	env := newTestEnv(t)
	v := env.volume(t, rwx)
	again := func(call func() error) {
		t.Helper()
		for range 10 {
			assert.NilError(t, call())
			env.restart(t)
		}
	}
	again(func() error { return v.stage(t) })
	again(func() error { return v.publish(t, "writer", false) })
	again(func() error { return v.publish(t, "reader", true) })
	assert.Equal(t, len(env.mounts(t)), 3)

	assert.NilError(t, os.WriteFile(filepath.Join(v.target("writer"), "f"), []byte("x"), 0o644))
	content, err := os.ReadFile(filepath.Join(v.target("reader"), "f"))
	assert.NilError(t, err)
	assert.Equal(t, string(content), "x")
	assert.ErrorIs(t, os.Remove(filepath.Join(v.target("reader"), "f")), unix.EROFS)
	stats, err := v.stats(t, v.target("reader"))
	assert.NilError(t, err)
	assert.Equal(t, stats.Usage[0].Total, int64(1<<30), "from the agent, with the token kept on disk")

	again(func() error { return v.unpublish(t, "writer") })
	again(func() error { return v.unpublish(t, "reader") })
	again(func() error { return v.unstage(t) })
	assert.Equal(t, len(env.mounts(t)), 0)
	isEmpty(t, v.staging)
	isEmpty(t, env.state)
	isEmpty(t, filepath.Dir(v.target("writer")))
}

func TestCallsInAnyOrderEndWhereTheLastOnesLead(t *testing.T) {
	env := newTestEnv(t)
	v := env.volume(t, rwx)
	random := rand.New(rand.NewPCG(1, 2))
	calls := []func() error{
		func() error { return v.stage(t) },
		func() error { return v.publish(t, "a", false) },
		func() error { return v.publish(t, "b", true) },
		func() error { return v.unpublish(t, "a") },
		func() error { return v.unpublish(t, "b") },
	}
	for range 300 {
		_ = calls[random.IntN(len(calls))]() // publishing before staging is refused; only the final state counts
	}
	for _, call := range []func() error{calls[3], calls[4], func() error { return v.unstage(t) }} {
		assert.NilError(t, call())
	}
	assert.Equal(t, len(env.mounts(t)), 0)
	isEmpty(t, v.staging)
}

func TestAWorkerReboots(t *testing.T) {
	env := newTestEnv(t)
	v, other := env.volume(t, rwx), env.volume(t, rwx)
	for _, v := range []*volume{v, other} {
		assert.NilError(t, v.stage(t))
		assert.NilError(t, v.publish(t, "pod", false))
	}
	env.reboot(t)
	env.restart(t)

	hasCode(t, v.publish(t, "pod", false), codes.FailedPrecondition, "not mounted")
	hasCode(t, v.publish(t, "new", false), codes.FailedPrecondition, "not mounted")
	isEmpty(t, v.target("pod"))
	_, err := v.stats(t, v.target("pod"))
	hasCode(t, err, codes.NotFound)
	// The kubelet's calls for pods that come back ...
	assert.NilError(t, v.stage(t))
	assert.NilError(t, v.publish(t, "pod", false))
	assert.NilError(t, os.WriteFile(filepath.Join(v.target("pod"), "f"), nil, 0o644))
	// ... and for pods that do not.
	assert.NilError(t, other.unpublish(t, "pod"))
	assert.NilError(t, other.unstage(t))
	isEmpty(t, other.staging)
}

func TestDataOnTheNodesOwnDiskIsNeverHiddenNorDeleted(t *testing.T) {
	env := newTestEnv(t)
	v := env.volume(t, rwx)
	for _, dir := range []string{filepath.Join(v.staging, "data"), v.target("pod")} {
		assert.NilError(t, os.MkdirAll(dir, 0o755))
		assert.NilError(t, os.WriteFile(filepath.Join(dir, "f"), []byte("kept"), 0o644))
	}
	hasCode(t, v.stage(t), codes.FailedPrecondition, "has content on this node's own disk")
	hasCode(t, v.unpublish(t, "pod"), codes.FailedPrecondition, "does not remove")
	hasCode(t, v.unstage(t), codes.FailedPrecondition, "does not remove")
	for _, dir := range []string{filepath.Join(v.staging, "data"), v.target("pod")} {
		content, err := os.ReadFile(filepath.Join(dir, "f"))
		assert.NilError(t, err)
		assert.Equal(t, string(content), "kept")
	}
}

func TestHostileTargets(t *testing.T) {
	env := newTestEnv(t)
	v := env.volume(t, rwx)
	assert.NilError(t, v.stage(t))
	precious := filepath.Join(env.dir, "precious")
	assert.NilError(t, os.Mkdir(precious, 0o755))
	for pod, create := range map[string]func(path string) error{
		"file":    func(p string) error { return os.WriteFile(p, []byte("kept"), 0o644) },
		"link":    func(p string) error { return os.Symlink(precious, p) },
		"dangler": func(p string) error { return os.Symlink("/nowhere", p) },
		"socket":  func(p string) error { return unix.Mknod(p, unix.S_IFSOCK|0o600, 0) },
		"full": func(p string) error {
			return errors.Join(os.Mkdir(p, 0o755), os.WriteFile(filepath.Join(p, "f"), []byte("kept"), 0o644))
		},
	} {
		assert.NilError(t, os.MkdirAll(filepath.Dir(v.target(pod)), 0o755))
		assert.NilError(t, create(v.target(pod)))
		hasCode(t, v.publish(t, pod, false), codes.FailedPrecondition, v.target(pod))
		hasCode(t, v.unpublish(t, pod), codes.FailedPrecondition, "does not remove")
		_, err := os.Lstat(v.target(pod))
		assert.NilError(t, err)
	}
	assert.Equal(t, len(env.mounts(t)), 1)
	isEmpty(t, precious)
}

func TestAccess(t *testing.T) {
	env := newTestEnv(t)

	t.Run("the same target in another way", func(t *testing.T) {
		v := env.volume(t, rwx)
		assert.NilError(t, v.stage(t))
		assert.NilError(t, v.publish(t, "pod", false))
		hasCode(t, v.publish(t, "pod", true), codes.AlreadyExists, "read-only")
		assert.NilError(t, v.publish(t, "pod", false))
	})
	t.Run("a target that another volume has", func(t *testing.T) {
		v, other := env.volume(t, rwx), env.volume(t, rwx)
		assert.NilError(t, v.stage(t))
		assert.NilError(t, other.stage(t))
		assert.NilError(t, other.publish(t, "pod", false))
		request := v.publishRequest("pod", false)
		request.TargetPath = other.target("pod")
		_, err := env.NodePublishVolume(t.Context(), request)
		hasCode(t, err, codes.AlreadyExists, other.source.String())
	})
	t.Run("a staging path that another volume has", func(t *testing.T) {
		v, other := env.volume(t, rwx), env.volume(t, rwx)
		assert.NilError(t, other.stage(t))
		request := v.stageRequest()
		request.StagingTargetPath = other.staging
		_, err := env.NodeStageVolume(t.Context(), request)
		hasCode(t, err, codes.AlreadyExists, other.source.String())
	})
	t.Run("one writer on one node", func(t *testing.T) {
		v := env.volume(t, rwop)
		assert.NilError(t, v.stage(t))
		for range 2 {
			assert.NilError(t, v.publish(t, "one", false))
		}
		env.restart(t)
		hasCode(t, v.publish(t, "two", false), codes.FailedPrecondition, v.target("one"))
		hasCode(t, v.publish(t, "two", true), codes.FailedPrecondition)
		assert.NilError(t, v.unpublish(t, "one"))
		assert.NilError(t, v.publish(t, "two", false))
	})
	t.Run("several workloads on one node", func(t *testing.T) {
		for _, mode := range []csi.VolumeCapability_AccessMode_Mode{rwo, rwx, csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER} {
			v := env.volume(t, mode)
			assert.NilError(t, v.stage(t))
			assert.NilError(t, v.publish(t, "one", false))
			assert.NilError(t, v.publish(t, "two", false))
		}
	})
	t.Run("reader-only modes are read-only", func(t *testing.T) {
		for _, mode := range []csi.VolumeCapability_AccessMode_Mode{rox, csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY} {
			v := env.volume(t, mode)
			assert.NilError(t, v.stage(t))
			for range 2 {
				assert.NilError(t, v.publish(t, "pod", false))
			}
			assert.ErrorIs(t, os.WriteFile(filepath.Join(v.target("pod"), "f"), nil, 0o644), unix.EROFS)
		}
	})
}

func TestMountGroup(t *testing.T) {
	env := newTestEnv(t)
	owner := func(path string) (gid, mode uint32) {
		var s unix.Stat_t
		assert.NilError(t, unix.Lstat(path, &s))
		return s.Gid, s.Mode & 0o7777
	}
	v := env.volume(t, rwx)
	assert.NilError(t, v.stage(t))
	data := filepath.Join(v.staging, "data")
	assert.NilError(t, os.WriteFile(filepath.Join(data, "f"), nil, 0o600))

	v.group = "4321"
	assert.NilError(t, v.publish(t, "reader", true))
	gid, _ := owner(data)
	assert.Equal(t, gid, uint32(0), "not for a reader")

	assert.NilError(t, v.publish(t, "writer", false))
	gid, mode := owner(v.target("writer"))
	assert.Equal(t, gid, uint32(4321))
	assert.Equal(t, mode&0o2070, uint32(0o2070))
	gid, mode = owner(filepath.Join(data, "f"))
	assert.Equal(t, gid, uint32(4321))
	assert.Equal(t, mode&0o060, uint32(0o060))
}

func TestManyVolumesOnANode(t *testing.T) {
	env := newTestEnv(t)
	var all []*volume
	for range mounttest.Many {
		v := env.volume(t, rwx)
		assert.NilError(t, v.stage(t))
		assert.NilError(t, v.publish(t, "pod", false))
		all = append(all, v)
	}
	assert.Equal(t, len(env.mounts(t)), 2*mounttest.Many)
	for i, v := range all {
		assert.NilError(t, v.unpublish(t, "pod"), fmt.Sprint(i))
		assert.NilError(t, v.unstage(t))
	}
	assert.Equal(t, len(env.mounts(t)), 0)
}
