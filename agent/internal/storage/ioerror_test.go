package storage

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// A device that fails writes makes btrfs abort and turn read-only. The agent refuses changes,
// reports the cause in its health, and serves lookups. When the device works again, all
// acknowledged changes are there.
func TestDeviceThatCannotBeWritten(t *testing.T) {
	resize := imagesOnTmpfs(t, "48m")
	pool := testpool.New(t, testpool.Options{})
	config, exporter := Config{BasePath: pool.Dir, Tenants: []string{tenant}}, newMemoryExporter()
	s := reopened(t, config, exporter)
	defer s.abandon()
	ten := mustTenant(t, s)
	ctx := t.Context()
	v := mustCreate(t, ten, "v")
	fill(t, v.Path, "precious")
	assert.NilError(t, commitNow(s))

	// The image grows until its filesystem is full. From then on the loop device returns EIO.
	before := entries(t, filepath.Join(pool.Dir, tenant))
	testpool.Eventually(t, func() poll.Result {
		_ = os.WriteFile(filepath.Join(v.Path, dataDir, "ballast"), make([]byte, 60*mib), 0o600) // fails at some point
		_, _, err := ten.CreateVolume(ctx, VolumeSpec{Name: "new", SizeBytes: 16 * mib})
		if err == nil {
			assert.NilError(t, ten.DeleteVolume(ctx, "new"))
			return poll.Continue("the device still takes everything")
		}
		code := agentapi.CodeOf(err)
		assert.Assert(t, code == agentapi.InternalError || code == agentapi.Unavailable, "%v", err)
		return poll.Success()
	})
	testpool.Eventually(t, func() poll.Result {
		found := reasons(s.Conditions())
		return testpool.When(slices.Contains(found, agentapi.ReasonPoolReadOnly) || slices.Contains(found, agentapi.ReasonDeviceErrors), "conditions are %v", found)
	})
	t.Logf("conditions: %v", s.Conditions())
	testpool.Eventually(t, func() poll.Result { // the abort comes with the next commit at the latest
		_, _, err := ten.CreateVolume(ctx, VolumeSpec{Name: "other", SizeBytes: 16 * mib})
		assert.Assert(t, err != nil)
		return testpool.When(agentapi.CodeOf(err) == agentapi.Unavailable, "%v", err)
	})
	assertCode(t, s.Ready(), agentapi.Unavailable)
	assertCode(t, ten.DeleteVolume(ctx, "v"), agentapi.Unavailable)
	have, err := ten.GetVolume(ctx, "v")
	assert.NilError(t, err)
	assert.Equal(t, have.UUID, v.UUID)

	s.abandon()
	resize("1g")
	pool.Unmount()
	pool.Mount()
	ten = mustTenant(t, open(t, config, exporter))
	_, err = ten.GetVolume(ctx, "v")
	assert.NilError(t, err)
	assert.Equal(t, contents(t, v.Path), "precious")
	assert.DeepEqual(t, entries(t, filepath.Join(pool.Dir, tenant)), before)
	assertRules(t, ten.store)
}

// imagesOnTmpfs puts the temporary files of this test on a tmpfs of that size. resize changes the
// size.
func imagesOnTmpfs(t *testing.T, size string) (resize func(size string)) {
	t.Helper()
	dir, err := os.MkdirTemp("", "small-")
	assert.NilError(t, err)
	mount := func(options string) {
		t.Helper()
		out, err := exec.Command("mount", "-t", "tmpfs", "-o", options, "tmpfs", dir).CombinedOutput()
		assert.NilError(t, err, "%s", out)
	}
	mount("size=" + size)
	t.Cleanup(func() {
		assert.Check(t, unix.Unmount(dir, unix.MNT_DETACH))
		assert.Check(t, os.Remove(dir))
	})
	t.Setenv("TMPDIR", dir)
	return func(size string) { mount("remount,size=" + size) }
}

// The backing file was truncated, so old data is unreadable. The agent creates nothing that depends
// on it, removes nothing, and reports the error.
func TestTruncatedDevice(t *testing.T) {
	pool := testpool.New(t, testpool.Options{SizeBytes: 256 << 20})
	config, exporter := Config{BasePath: pool.Dir, Tenants: []string{tenant}}, newMemoryExporter()
	s := reopened(t, config, exporter)
	defer s.abandon()
	ten := mustTenant(t, s)
	ctx := t.Context()
	mustCreate(t, ten, "v")
	const many, inline = 4000, 1900 // files in the leaves of the tree: more than the few nodes that the kernel always caches
	assert.NilError(t, os.Mkdir(filepath.Join(pool.Dir, "ballast"), 0o700))
	for i := range many {
		assert.NilError(t, os.WriteFile(filepath.Join(pool.Dir, "ballast", fmt.Sprint(i)), make([]byte, inline), 0o600))
	}
	assert.NilError(t, commitNow(s))
	assert.NilError(t, unix.Syncfs(int(s.pool.Base().Fd())))
	truncateDevice(t, pool.Image)
	dropCaches(t)

	_, _, err := ten.CreateVolume(ctx, VolumeSpec{Name: "new", SizeBytes: 16 * mib})
	assert.Assert(t, err != nil)
	code := agentapi.CodeOf(err)
	assert.Assert(t, code == agentapi.InternalError || code == agentapi.Unavailable, "%v", err)
	assert.Assert(t, strings.Contains(err.Error(), "input/output error") || code == agentapi.Unavailable, "%v", err)
	testpool.Eventually(t, func() poll.Result {
		found := reasons(s.Conditions())
		return testpool.When(slices.Contains(found, agentapi.ReasonDeviceErrors) && slices.Contains(found, agentapi.ReasonDeviceErrorsRising), "conditions are %v", found)
	})
	t.Logf("conditions: %v", s.Conditions())
	_, err = ten.GetVolume(ctx, "v")
	assert.NilError(t, err)
	_, err = ten.GetVolume(ctx, "new")
	assertCode(t, err, agentapi.NotFound)
}

// truncateDevice leaves only the first superblock. It also shrinks the loop device. Otherwise later
// writes would extend the file again, with holes that read as zeros.
func truncateDevice(t *testing.T, image string) {
	t.Helper()
	assert.NilError(t, os.Truncate(image, 1<<20))
	device, err := exec.Command("losetup", "--noheadings", "--output", "NAME", "--associated", image).Output()
	assert.NilError(t, err)
	out, err := exec.Command("losetup", "--set-capacity", strings.TrimSpace(string(device))).CombinedOutput()
	assert.NilError(t, err, "%s", out)
}

// dropCaches drops the caches of the kernel (proc_sys_vm(5)).
func dropCaches(t *testing.T) {
	t.Helper()
	assert.NilError(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0))
}
