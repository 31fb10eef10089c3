package mounttest

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
)

func unmountIsIdempotent(t *testing.T, b Backend) {
	data, dir, _ := mounted(t, b)
	target := filepath.Join(dir, "target")
	assert.NilError(t, b.Mounter().Bind(t.Context(), data, target, false))
	for range 3 {
		assert.NilError(t, b.Mounter().Unbind(t.Context(), target))
		gone(t, target)
	}
	for range 3 {
		assert.NilError(t, b.Mounter().Unmount(t.Context(), data))
	}
	entries, err := os.ReadDir(filepath.Dir(data))
	assert.NilError(t, err)
	assert.Equal(t, len(entries), 0, "the staging directory is empty")
	// Directories without mounts, as after a reboot.
	assert.NilError(t, os.Mkdir(target, 0o755))
	assert.NilError(t, os.Mkdir(data, 0o755))
	assert.NilError(t, b.Mounter().Unbind(t.Context(), target))
	assert.NilError(t, b.Mounter().Unmount(t.Context(), data))
	gone(t, target)
	gone(t, data)
	assert.NilError(t, b.Mounter().Unbind(t.Context(), filepath.Join(dir, "never", "there")))
}

func unmountSparesData(t *testing.T, b Backend) {
	paths, untouched := hostile(t, place(t))
	for _, path := range paths {
		assert.ErrorIs(t, b.Mounter().Unbind(t.Context(), path), nfsmount.ErrTarget)
		assert.ErrorIs(t, b.Mounter().Unmount(t.Context(), path), nfsmount.ErrTarget)
	}
	untouched()

	data, dir, source := mounted(t, b)
	write(t, filepath.Join(data, "f"), "kept")
	target := filepath.Join(dir, "target")
	assert.NilError(t, b.Mounter().Bind(t.Context(), data, target, false))
	assert.NilError(t, b.Mounter().Unbind(t.Context(), target))
	assert.Equal(t, read(t, filepath.Join(data, "f")), "kept")
	_ = source
}

func unbindWhileBusy(t *testing.T, b Backend) {
	data, dir, _ := mounted(t, b)
	target := filepath.Join(dir, "target")
	assert.NilError(t, b.Mounter().Bind(t.Context(), data, target, false))
	inside, err := os.Create(filepath.Join(target, "f"))
	assert.NilError(t, err)
	defer inside.Close()
	assert.NilError(t, within(t, Patience(b), func() error { return b.Mounter().Unbind(t.Context(), target) }))
	gone(t, target)
	_, err = inside.WriteString("still")
	assert.NilError(t, err, "the process inside goes on until it ends")
	assert.NilError(t, inside.Sync())
	assert.Equal(t, read(t, filepath.Join(data, "f")), "still")
}

func unmountWhileBusy(t *testing.T, b Backend) {
	data, _, _ := mounted(t, b)
	inside, err := os.Create(filepath.Join(data, "f"))
	assert.NilError(t, err)
	defer inside.Close()
	assert.NilError(t, within(t, Patience(b), func() error { return b.Mounter().Unmount(t.Context(), data) }))
	gone(t, data)
}

func unmountStack(t *testing.T, b Backend) {
	data, dir, _ := mounted(t, b)
	target := filepath.Join(dir, "target")
	assert.NilError(t, b.Mounter().Bind(t.Context(), data, target, false))
	for range 3 {
		assert.NilError(t, unix.Mount(data, target, "", unix.MS_BIND, ""))
	}
	assert.Equal(t, layers(t, target), 4)
	assert.NilError(t, b.Mounter().Unbind(t.Context(), target))
	gone(t, target)
	assert.Equal(t, layers(t, data), 1)
}
