package doctor

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

func TestCopies(t *testing.T) {
	pool := testpool.New(t, testpool.Options{})
	h, c := imagine(t), settings(pool.Dir)
	h.Run = run
	look := func() string { return say(onPool(checkCopies)(t.Context(), h.Host, c)) }
	assert.Assert(t, is.Contains(look(), "ok: none on this host"))

	image := filepath.Join(t.TempDir(), "copy.img")
	sh(t, "cp --sparse=always "+pool.Image+" "+image)
	device := sh(t, "losetup -f --show "+image)
	t.Cleanup(func() { sh(t, "losetup -d "+device) })
	assert.Assert(t, is.Contains(look(), "warning: "+device+" holds a copy of the pool"))

	// Another device is made of it, as by DRBD.
	above, err := os.OpenFile(device, os.O_RDONLY|unix.O_EXCL, 0)
	assert.NilError(t, err)
	assert.Assert(t, is.Contains(look(), "ok: none on this host"))
	// It is mounted itself.
	h.write("proc/self/mountinfo", "29 1 0:26 / /mnt rw - btrfs "+device+" rw\n")
	assert.Assert(t, is.Contains(look(), "warning: "+device+" holds a copy of the pool"))
	assert.NilError(t, above.Close())

	h.Run = func(context.Context, string, ...string) (string, error) { return "", errors.New("exit status 2") }
	assert.Assert(t, is.Contains(look(), "unknown: "))
	fs, err := btrfs.Open(pool.Dir)
	assert.NilError(t, err)
	assert.NilError(t, fs.Close())
	h.write("sys/fs/btrfs/"+fs.FSID().String()+"/temp_fsid", "1\n")
	assert.Assert(t, is.Contains(look(), "warning: the pool is a copy of another filesystem of this host"))
}

func sh(t *testing.T, script string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", script).CombinedOutput()
	assert.NilError(t, err, "%s: %s", script, out)
	return strings.TrimSpace(string(out))
}
