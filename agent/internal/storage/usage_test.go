package storage

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// reflink does what the NFS server does for a server-side copy: FICLONE.
func reflink(t *testing.T, from, to string) {
	t.Helper()
	source, err := os.Open(from)
	assert.NilError(t, err)
	defer source.Close()
	target, err := os.Create(to)
	assert.NilError(t, err)
	defer target.Close()
	assert.NilError(t, unix.IoctlFileClone(int(target.Fd()), int(source.Fd())))
}

// With full quotas a reflink can make a volume exceed its limit. Its health reports that until the
// volume is within the limit again. With simple quotas the copied data stays charged to its source.
func TestCopyOverTheLimit(t *testing.T) {
	t.Parallel()
	for mode, want := range map[Quota][]string{QuotaFull: {agentapi.ReasonVolumeOverLimit}, QuotaSimple: {}} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			pool := newPool(t)
			ten := mustTenant(t, open(t, Config{BasePath: pool.Dir, Quota: mode}, newMemoryExporter()))
			big, _, err := ten.CreateVolume(t.Context(), VolumeSpec{Name: "big", SizeBytes: 256 * mib})
			assert.NilError(t, err)
			assert.NilError(t, writeBytes(big.Path, "file", 100*mib))
			v := mustCreate(t, ten, "v") // 64 MiB
			copied := filepath.Join(v.Path, dataDir, "copied")
			reflink(t, filepath.Join(big.Path, dataDir, "file"), copied)
			assert.DeepEqual(t, healthOf(t, ten, "v"), want)
			assert.DeepEqual(t, healthOf(t, ten, "big"), []string{})
			if mode == QuotaFull {
				assert.DeepEqual(t, degradedVolumes(t, ten), []string{"v"})
				assert.ErrorIs(t, writeBytes(v.Path, "more", mib), unix.EDQUOT)
			}

			assert.NilError(t, os.Remove(copied))
			assert.DeepEqual(t, healthOf(t, ten, "v"), []string{})
			assert.NilError(t, writeBytes(v.Path, "more", mib))
		})
	}
}

// Requests for usage, health and lists cause no commits at any rate.
func TestReadersDoNotCommit(t *testing.T) {
	t.Parallel()
	ten, _ := openTenant(t)
	v := mustCreate(t, ten, "v")
	filesystem := fsOf(t, ten.store).FSID()
	before := testpool.Commits(t, filesystem)
	for round := range 4 {
		assert.NilError(t, writeBytes(v.Path, "file", int64(round+1)*mib))
		_, err := ten.Report(t.Context(), "v")
		assert.NilError(t, err)
		_, err = ten.Usage(t.Context(), v.ID)
		assert.NilError(t, err)
		degradedVolumes(t, ten)
		ten.store.Conditions()
		time.Sleep(1100 * time.Millisecond)
	}
	made := testpool.Commits(t, filesystem) - before
	assert.Assert(t, made <= 1, "%d commits in less than five seconds", made) // one is that of the kernel
}

// The clone of a volume without a limit contains all earlier writes, and is writable.
func TestCloneOfAVolumeWithoutALimit(t *testing.T) {
	t.Parallel()
	for _, from := range []CloneSpec{{Name: "c", Volume: "v"}, {Name: "c", Snapshot: "s"}} {
		ten, _ := openTenant(t)
		v := mustCreate(t, ten, "v") // 64 MiB
		_, err := ten.UpdateVolume(t.Context(), "v", VolumeUpdate{RequestedProperties: chosen{SizeLimit: ptr(false)}})
		assert.NilError(t, err)
		assert.NilError(t, writeBytes(v.Path, "file", 100*mib))
		_, _, err = ten.CreateSnapshot(t.Context(), SnapshotSpec{Name: "s", Volume: "v"})
		assert.NilError(t, err)
		assert.NilError(t, os.WriteFile(filepath.Join(v.Path, dataDir, "unwritten"), make([]byte, 100*mib), 0o600)) // not written out yet
		c, _, err := ten.Clone(t.Context(), from)
		assert.NilError(t, err)
		assert.Equal(t, c.QuotaBytes, c.SizeBytes)
		assert.DeepEqual(t, healthOf(t, ten, "c"), []string{})
		assert.NilError(t, writeBytes(c.Path, "more", 16*mib))

		small := from
		small.Name, small.SizeBytes = "small", 64*mib
		_, _, err = ten.Clone(t.Context(), small)
		assertCode(t, err, agentapi.Invalid)
		assert.ErrorContains(t, err, "size_bytes")
	}
}
