package mounttest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
)

// place returns a directory for mounts on local disk. Its cleanup detaches all mounts below.
func place(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	assert.NilError(t, err)
	t.Cleanup(func() {
		for _, p := range slices.Backward(mountsBelow(t, dir)) {
			assert.NilError(t, unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW))
		}
	})
	return dir
}

func mountsBelow(t *testing.T, dir string) []string {
	t.Helper()
	infos, err := mountinfo.GetMounts(nil)
	assert.NilError(t, err)
	var below []string
	for _, info := range infos {
		if strings.HasPrefix(info.Mountpoint, dir+"/") {
			below = append(below, info.Mountpoint)
		}
	}
	return below
}

// mounted returns a new volume, mounted at dir/staging/data.
func mounted(t *testing.T, b Backend) (data, dir string, source nfsmount.Source) {
	t.Helper()
	dir, source = place(t), b.NewVolume(t)
	data = filepath.Join(dir, "staging", "data")
	assert.NilError(t, b.Mounter().Mount(t.Context(), source, data, b.Options()))
	return data, dir, source
}

func mountedFragile(t *testing.T, b Backend) (data, dir string, f Fragile) {
	t.Helper()
	f = b.NewFragile(t)
	dir = place(t)
	data = filepath.Join(dir, "staging", "data")
	assert.NilError(t, b.Mounter().Mount(t.Context(), f.Source, data, b.Options()))
	return data, dir, f
}

func layers(t *testing.T, dir string) int {
	t.Helper()
	count := 0
	for _, p := range mountsBelow(t, filepath.Dir(dir)) {
		if p == dir {
			count++
		}
	}
	return count
}

func write(t *testing.T, path, content string) {
	t.Helper()
	assert.NilError(t, os.WriteFile(path, []byte(content), 0o644))
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	assert.NilError(t, err)
	return string(content)
}

func gone(t *testing.T, path string) {
	t.Helper()
	_, err := os.Lstat(path)
	assert.ErrorIs(t, err, os.ErrNotExist)
}

// within fails if f takes longer, and does not wait for f forever.
func within(t *testing.T, limit time.Duration, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(limit):
		t.Fatalf("not done within %v", limit)
		return nil
	}
}
