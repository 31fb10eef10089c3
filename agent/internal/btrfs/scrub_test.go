package btrfs_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/testpool"
)

func TestScrub(t *testing.T) {
	f := newFixture(t, testpool.Options{})
	assert.NilError(t, write(f.path("file"), 8*mib))
	f.commit()
	found, err := f.ScrubDevice(1, true)
	assert.NilError(t, err)
	assert.Assert(t, found.DataBytes >= 8*mib && found.TreeBytes > 0, "%+v", found)
	assert.Equal(t, found.UncorrectableErrors, uint64(0))

	_, running, err := f.ScrubState(1)
	assert.NilError(t, err)
	assert.Assert(t, !running)
	assert.NilError(t, f.CancelScrub()) // none runs
	_, err = f.ScrubDevice(7, true)
	assert.ErrorIs(t, err, unix.ENODEV)
}

// What cannot be repaired is counted, and does not end the scrub.
func TestScrubOfDamage(t *testing.T) {
	f := newFixture(t, testpool.Options{Mkfs: []string{"-d", "single"}})
	assert.NilError(t, write(f.path("file"), 8*mib))
	f.commit()
	f.pool.Damage(f.path("file"))
	for _, readOnly := range []bool{true, false} {
		found, err := f.ScrubDevice(1, readOnly)
		assert.NilError(t, err)
		assert.Assert(t, found.CsumErrors > 0 && found.UncorrectableErrors > 0, "%+v", found)
	}
}

func TestBalance(t *testing.T) {
	f := newFixture(t, testpool.Options{})
	assert.NilError(t, write(f.path("file"), 200*mib))
	f.commit()
	assert.NilError(t, os.Remove(f.path("file")))
	assert.NilError(t, write(f.path("rest"), 1*mib))
	f.commit()
	done, err := f.BalanceData(50)
	assert.NilError(t, err)
	assert.Assert(t, done.Considered > 0 && done.Completed > 0, "%+v", done)
	again, err := f.BalanceData(0) // only those with nothing in them: there are none
	assert.NilError(t, err)
	assert.Equal(t, again.Completed, uint64(0))

	_, running, err := f.BalanceState()
	assert.NilError(t, err)
	assert.Assert(t, !running)
	assert.NilError(t, f.CancelBalance())
	content, err := os.Stat(f.path("rest"))
	assert.NilError(t, err)
	assert.Equal(t, content.Size(), int64(mib))
}

// btrfs-progs reads what we note, and we what it notes.
func TestScrubStatus(t *testing.T) {
	f := newFixture(t, testpool.Options{})
	info, err := f.Info()
	assert.NilError(t, err)
	_, err = btrfs.ReadScrubStatus(btrfs.ScrubStatusDir, info.FSID)
	assert.ErrorIs(t, err, os.ErrNotExist)
	assert.NilError(t, os.MkdirAll(btrfs.ScrubStatusDir, 0o755))
	t.Cleanup(func() { _ = os.Remove(btrfs.ScrubStatusDir + "/scrub.status." + info.FSID.String()) })

	ours := []btrfs.ScrubRun{{
		Device: 1, Started: time.Unix(1700000000, 0), Took: 75 * time.Second, Cancelled: true,
		Scrub: btrfs.Scrub{DataBytes: 5 * mib, TreeBytes: mib, CsumErrors: 3, UncorrectableErrors: 2, CorrectedErrors: 1},
	}}
	assert.NilError(t, btrfs.WriteScrubStatus(btrfs.ScrubStatusDir, info.FSID, ours))
	read, err := btrfs.ReadScrubStatus(btrfs.ScrubStatusDir, info.FSID)
	assert.NilError(t, err)
	assert.DeepEqual(t, read, ours)
	shown, err := exec.Command("btrfs", "scrub", "status", f.pool.Dir).CombinedOutput()
	assert.NilError(t, err, "%s", shown)
	for _, want := range []string{"aborted", "0:01:15", "csum=3", "Corrected:      1", "Uncorrectable:  2"} {
		assert.Check(t, strings.Contains(string(shown), want), "%q is not in\n%s", want, shown)
	}

	out, err := exec.Command("btrfs", "scrub", "start", "-B", f.pool.Dir).CombinedOutput()
	assert.NilError(t, err, "%s", out)
	read, err = btrfs.ReadScrubStatus(btrfs.ScrubStatusDir, info.FSID)
	assert.NilError(t, err)
	assert.Equal(t, len(read), 1)
	assert.Assert(t, read[0].TreeBytes > 0 && read[0].UncorrectableErrors == 0 && !read[0].Cancelled && time.Since(read[0].Started) < time.Hour, "%+v", read[0])
}
