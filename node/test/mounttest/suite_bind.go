package mounttest

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
)

func bindShowsTheVolume(t *testing.T, b Backend) {
	data, dir, _ := mounted(t, b)
	rw, ro := filepath.Join(dir, "pod", "rw"), filepath.Join(dir, "pod", "ro")
	for range 2 {
		assert.NilError(t, b.Mounter().Bind(t.Context(), data, rw, false))
		assert.NilError(t, b.Mounter().Bind(t.Context(), data, ro, true))
	}
	assert.Equal(t, layers(t, rw), 1)
	assert.Equal(t, layers(t, ro), 1)
	write(t, filepath.Join(rw, "f"), "shared")
	assert.Equal(t, read(t, filepath.Join(ro, "f")), "shared")
	assert.ErrorIs(t, os.WriteFile(filepath.Join(ro, "g"), nil, 0o644), unix.EROFS)
	assert.NilError(t, os.Remove(filepath.Join(rw, "f")))

	assert.ErrorIs(t, b.Mounter().Bind(t.Context(), data, rw, true), nfsmount.ErrConflict)
	assert.ErrorIs(t, b.Mounter().Bind(t.Context(), data, ro, false), nfsmount.ErrConflict)
}

func bindRefusesLocalDisk(t *testing.T, b Backend) {
	dir := place(t)
	data, target := filepath.Join(dir, "data"), filepath.Join(dir, "target")
	assert.ErrorIs(t, b.Mounter().Bind(t.Context(), data, target, false), nfsmount.ErrNotMounted)
	assert.NilError(t, os.Mkdir(data, 0o755)) // as after a reboot
	assert.ErrorIs(t, b.Mounter().Bind(t.Context(), data, target, false), nfsmount.ErrNotMounted)
	// A mount that is not a volume counts as no mount.
	assert.NilError(t, unix.Mount(dir, data, "", unix.MS_BIND, ""))
	assert.ErrorIs(t, b.Mounter().Bind(t.Context(), data, target, false), nfsmount.ErrNotMounted)
	gone(t, target)
}

func bindRefusesHostileTargets(t *testing.T, b Backend) {
	data, dir, _ := mounted(t, b)
	paths, untouched := hostile(t, dir)
	for _, path := range paths {
		assert.ErrorIs(t, b.Mounter().Bind(t.Context(), data, path, false), nfsmount.ErrTarget)
		assert.Equal(t, layers(t, path), 0)
	}
	untouched()
}

func bindConflict(t *testing.T, b Backend) {
	data, dir, _ := mounted(t, b)
	target := filepath.Join(dir, "target")
	assert.NilError(t, b.Mounter().Mount(t.Context(), b.NewVolume(t), target, b.Options()))
	assert.ErrorIs(t, b.Mounter().Bind(t.Context(), data, target, false), nfsmount.ErrConflict)
	assert.Equal(t, layers(t, target), 1)
}

func bindReplacesStale(t *testing.T, b Backend) {
	data, dir, f := mountedFragile(t, b)
	target := filepath.Join(dir, "target")
	assert.NilError(t, b.Mounter().Bind(t.Context(), data, target, false))
	f.Revoke()
	f.Restore()
	assert.NilError(t, b.Mounter().Mount(t.Context(), f.Source, data, b.Options()))
	assert.NilError(t, b.Mounter().Bind(t.Context(), data, target, false))
	assert.NilError(t, b.Mounter().Check(t.Context(), target))
	assert.Equal(t, layers(t, target), 1)
}

func others(t *testing.T, b Backend) {
	data, dir, _ := mounted(t, b)
	_, _, _ = mounted(t, b)
	find := func(target string) []string {
		t.Helper()
		points, err := b.Mounter().Others(t.Context(), data, target)
		assert.NilError(t, err)
		dirs := make([]string, 0, len(points))
		for _, p := range points {
			dirs = append(dirs, p.Dir)
		}
		return dirs
	}
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	assert.Equal(t, len(find(one)), 0)
	assert.NilError(t, b.Mounter().Bind(t.Context(), data, one, true))
	assert.Equal(t, len(find(one)), 0)
	assert.DeepEqual(t, find(two), []string{one})
	// The kubelet makes this for subPath.
	sub, subTarget := filepath.Join(data, "sub"), filepath.Join(dir, "subpath")
	assert.NilError(t, os.Mkdir(sub, 0o755))
	assert.NilError(t, os.Mkdir(subTarget, 0o755))
	assert.NilError(t, unix.Mount(sub, subTarget, "", unix.MS_BIND, ""))
	assert.DeepEqual(t, find(two), []string{one})
	_, err := b.Mounter().Others(t.Context(), two, one)
	assert.ErrorIs(t, err, nfsmount.ErrNotMounted)
}
