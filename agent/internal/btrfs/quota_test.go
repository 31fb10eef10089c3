package btrfs_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

var quotaModes = []btrfs.QuotaMode{btrfs.QuotaFull, btrfs.QuotaSimple}

// forEachMode runs a test in both modes. On old kernels it skips simple quotas with a message.
func forEachMode(t *testing.T, options testpool.Options, test func(t *testing.T, f *fixture)) {
	t.Helper()
	for _, mode := range quotaModes {
		t.Run(string(mode), func(t *testing.T) {
			if _, err := os.Stat("/sys/fs/btrfs/features/simple_quota"); err != nil && mode == btrfs.QuotaSimple {
				t.Skip("this kernel has no simple quotas (it is older than 6.7)")
			}
			options.Quota = mode
			test(t, newFixture(t, options))
		})
	}
}

func TestQuotaStatus(t *testing.T) {
	f := newFixture(t, testpool.Options{})
	off := btrfs.QuotaStatus{Mode: btrfs.QuotaOff}
	for _, mode := range quotaModes {
		status, err := f.Quota()
		assert.NilError(t, err)
		assert.Equal(t, status, off)

		for range 2 { // the second call is no error
			assert.NilError(t, f.EnableQuota(mode))
			assert.NilError(t, f.WaitRescan(t.Context()))
		}
		status, err = f.Quota()
		assert.NilError(t, err)
		assert.Assert(t, status.Enabled && !status.Inconsistent && !status.Rescanning)
		assert.Equal(t, status.Mode, mode)
		other := quotaModes[0]
		if mode == other {
			other = quotaModes[1]
		}
		assert.ErrorIs(t, f.EnableQuota(other), btrfs.ErrQuotaMode)

		for range 2 {
			assert.NilError(t, f.DisableQuota())
		}
	}
	assert.ErrorIs(t, f.EnableQuota("sometimes"), unix.EINVAL)
}

// The quota tree and sysfs show the same state. Kernels that show less in sysfs need the tree.
func TestQuotaStatusWithoutSysfs(t *testing.T) {
	forEachMode(t, testpool.Options{}, func(t *testing.T, f *fixture) {
		f.commit()
		fallback := f.WithSysfs(t.TempDir())
		status, err := fallback.Quota()
		assert.NilError(t, err)
		fromSysfs, err := f.Quota()
		assert.NilError(t, err)
		assert.Equal(t, status, fromSysfs)
		assert.NilError(t, f.DisableQuota())
		status, err = fallback.Quota()
		assert.NilError(t, err)
		assert.Equal(t, status.Mode, btrfs.QuotaOff)
	})
}

func TestQuotaCallsWithoutQuotas(t *testing.T) {
	f := newFixture(t, testpool.Options{})
	_, info := f.subvolume("volume")
	assert.ErrorIs(t, f.SetLimit(info.ID, 100*mib), btrfs.ErrQuotaDisabled)
	_, err := f.Qgroup(info.ID)
	assert.ErrorIs(t, err, btrfs.ErrQuotaDisabled)
	_, err = f.Qgroups()
	assert.ErrorIs(t, err, btrfs.ErrQuotaDisabled)
	assert.ErrorIs(t, f.EachQgroupCounts(func(btrfs.Qgroup) {}), btrfs.ErrQuotaDisabled)
	_, _, err = f.StaleQgroups(t.Context())
	assert.ErrorIs(t, err, btrfs.ErrQuotaDisabled)
	assert.ErrorIs(t, f.RemoveQgroup(info.ID), btrfs.ErrQuotaDisabled)
	assert.ErrorIs(t, f.StartRescan(), btrfs.ErrQuotaDisabled)
	assert.NilError(t, f.WaitRescan(t.Context()))
}

func TestLimitIsEnforced(t *testing.T) {
	forEachMode(t, testpool.Options{Subvolume: "@"}, func(t *testing.T, f *fixture) {
		_, info := f.subvolume("volume")
		assert.NilError(t, f.SetLimit(info.ID, 20*mib))
		assert.NilError(t, write(f.path("volume", "fits"), 15*mib))
		assert.ErrorIs(t, write(f.path("volume", "too-large"), 15*mib), unix.EDQUOT)
		f.commit()
		qgroup, err := f.Qgroup(info.ID)
		assert.NilError(t, err)
		assert.Equal(t, qgroup.MaxReferenced, uint64(20*mib))
		assert.Assert(t, qgroup.Referenced >= 15*mib && qgroup.Referenced <= 20*mib, "%d", qgroup.Referenced)
		counts, err := f.QgroupCounts(info.ID)
		assert.NilError(t, err)
		assert.Equal(t, counts, btrfs.Qgroup{ID: info.ID, Referenced: qgroup.Referenced, Exclusive: qgroup.Exclusive})

		assert.NilError(t, f.SetLimit(info.ID, 40*mib)) // raised
		assert.NilError(t, write(f.path("volume", "more"), 15*mib))
		assert.NilError(t, f.SetLimit(info.ID, 10*mib)) // below the current usage
		assert.ErrorIs(t, write(f.path("volume", "too-much"), mib), unix.EDQUOT)
		assert.NilError(t, f.SetLimit(info.ID, 0))
		assert.NilError(t, write(f.path("volume", "unlimited"), 30*mib))
		f.commit()
		qgroup, err = f.Qgroup(info.ID)
		assert.NilError(t, err)
		assert.Equal(t, qgroup.MaxReferenced, uint64(0))
	})
}

func TestUsageIsRightAfterCommit(t *testing.T) {
	forEachMode(t, testpool.Options{Subvolume: "@"}, func(t *testing.T, f *fixture) {
		_, info := f.subvolume("volume")
		const size = 10 * mib
		assert.NilError(t, write(f.path("volume", "file"), size))
		f.commit()
		qgroup, err := f.Qgroup(info.ID)
		assert.NilError(t, err)
		const metadata = 64 << 10 // a few nodes
		assert.Assert(t, qgroup.Referenced >= size && qgroup.Referenced <= size+metadata, "%d", qgroup.Referenced)
		assert.Equal(t, qgroup.Exclusive, qgroup.Referenced)

		assert.NilError(t, os.Remove(f.path("volume", "file")))
		f.commit()
		qgroup, err = f.Qgroup(info.ID)
		assert.NilError(t, err)
		assert.Assert(t, qgroup.Referenced <= metadata, "%d", qgroup.Referenced)
	})
}

// In full mode a clone references all shared data. In simple mode it references only what it wrote.
func TestUsageOfClones(t *testing.T) {
	forEachMode(t, testpool.Options{}, func(t *testing.T, f *fixture) {
		source, sourceInfo := f.subvolume("source")
		const size, metadata = 10 * mib, 64 << 10
		assert.NilError(t, write(f.path("source", "file"), size))
		assert.NilError(t, btrfs.Snapshot(source, f.dir, "clone", false))
		_, cloneInfo := f.opened("clone")
		f.commit()
		qgroups, err := f.Qgroups()
		assert.NilError(t, err)
		original, clone := qgroups[sourceInfo.ID], qgroups[cloneInfo.ID]
		assert.Assert(t, original.Referenced >= size)
		status, err := f.Quota()
		assert.NilError(t, err)
		assert.Assert(t, !status.Inconsistent)
		if status.Mode == btrfs.QuotaFull {
			assert.Equal(t, clone.Referenced, original.Referenced)
			assert.Assert(t, original.Exclusive <= metadata, "%d", original.Exclusive)
		} else {
			assert.Assert(t, clone.Referenced <= metadata, "%d", clone.Referenced)
			assert.Equal(t, original.Exclusive, original.Referenced)
		}
	})
}

func TestNoSuchQgroup(t *testing.T) {
	forEachMode(t, testpool.Options{}, func(t *testing.T, f *fixture) {
		const never = 1 << 40
		assert.ErrorIs(t, f.SetLimit(never, mib), btrfs.ErrNoQgroup)
		assert.ErrorIs(t, f.RemoveQgroup(never), btrfs.ErrNoQgroup)
		_, err := f.Qgroup(never)
		assert.ErrorIs(t, err, btrfs.ErrNoQgroup)
		_, err = f.QgroupCounts(never)
		assert.ErrorIs(t, err, btrfs.ErrNoQgroup)
		_, info := f.subvolume("volume")
		assert.ErrorIs(t, f.RemoveQgroup(info.ID), unix.EBUSY)
	})
}

// After a destruction, the kernel removes the qgroup, or the qgroup is stale until it is removed.
func TestQgroupOfDestroyedSubvolume(t *testing.T) {
	forEachMode(t, testpool.Options{}, func(t *testing.T, f *fixture) {
		_, kept := f.subvolume("kept")
		volume, info := f.subvolume("volume")
		assert.NilError(t, write(f.path("volume", "file"), mib))
		assert.NilError(t, volume.Close()) // the kernel keeps an open subvolume
		assert.NilError(t, btrfs.DestroySubvolume(f.dir, "volume"))
		f.reapUntilGone(t, info.ID)
		_, err := f.Qgroup(kept.ID)
		assert.NilError(t, err)
	})
}

// In simple mode the qgroup of the source counts what a clone still shares.
func TestQgroupOfDestroyedSource(t *testing.T) {
	forEachMode(t, testpool.Options{}, func(t *testing.T, f *fixture) {
		source, info := f.subvolume("source")
		assert.NilError(t, write(f.path("source", "file"), mib))
		assert.NilError(t, btrfs.Snapshot(source, f.dir, "clone", false))
		assert.NilError(t, source.Close())
		assert.NilError(t, btrfs.DestroySubvolume(f.dir, "source"))
		if status, err := f.Quota(); assert.Check(t, err) && status.Mode == btrfs.QuotaSimple {
			f.awaitStale(t, info.ID)
			assert.ErrorIs(t, f.RemoveQgroup(info.ID), unix.EBUSY)
			qgroup, err := f.Qgroup(info.ID)
			assert.NilError(t, err)
			assert.Assert(t, qgroup.Referenced >= mib)
		}
		assert.NilError(t, btrfs.DestroySubvolume(f.dir, "clone"))
		f.reapUntilGone(t, info.ID)
	})
}

// awaitStale waits until the kernel has cleaned up the subvolume.
func (f *fixture) awaitStale(t *testing.T, id uint64) {
	t.Helper()
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		stale, _, err := f.StaleQgroups(t.Context())
		if err != nil {
			return poll.Error(err)
		}
		if len(stale) != 1 || stale[0] != id {
			return poll.Continue("stale: %v", stale)
		}
		return poll.Success()
	}, waitOptions...)
}

// reapUntilGone removes stale qgroups, as a reaper does, until the qgroup of id is gone.
func (f *fixture) reapUntilGone(t *testing.T, id uint64) {
	t.Helper()
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		stale, _, err := f.StaleQgroups(t.Context())
		if err != nil {
			return poll.Error(err)
		}
		for _, each := range stale {
			// ErrNoQgroup: the kernel removed it first. EBUSY: other subvolumes still use it.
			err := f.RemoveQgroup(each)
			if err != nil && !errors.Is(err, btrfs.ErrNoQgroup) && !errors.Is(err, unix.EBUSY) {
				return poll.Error(err)
			}
		}
		if _, err := f.Qgroup(id); errors.Is(err, btrfs.ErrNoQgroup) {
			return poll.Success()
		}
		return poll.Continue("qgroup %d is still there; stale: %v", id, stale)
	}, waitOptions...)
}

var waitOptions = []poll.SettingOp{poll.WithTimeout(30 * time.Second), poll.WithDelay(20 * time.Millisecond)}

// StaleQgroups never returns subvolumes that are being created.
func TestStaleQgroupsDuringCreation(t *testing.T) {
	f := newFixture(t, testpool.Options{Quota: btrfs.QuotaFull})
	const count = 3000 // about 100 MB of metadata
	created := make(chan error, 1)
	go func() {
		for i := range count {
			if err := btrfs.CreateSubvolume(f.dir, fmt.Sprintf("volume%d", i)); err != nil {
				created <- err
				return
			}
		}
		created <- nil
	}()
	for calls := 1; ; calls++ {
		stale, _, err := f.StaleQgroups(t.Context())
		assert.NilError(t, err)
		assert.Equal(t, len(stale), 0, "%v", stale)
		select {
		case err := <-created:
			assert.NilError(t, err)
			assert.Assert(t, calls > 1, "all was created before the first call")
			return
		default:
		}
	}
}

func TestRescanCuresInconsistency(t *testing.T) {
	f := newFixture(t, testpool.Options{Quota: btrfs.QuotaFull})
	f.subvolume("source")
	assert.NilError(t, write(f.path("source", "file"), mib))
	// A snapshot with qgroup inheritance, which this package never uses, makes quotas inconsistent.
	command(t, "btrfs", "qgroup", "create", "1/0", f.pool.Dir)
	command(t, "btrfs", "subvolume", "snapshot", "-i", "1/0", f.path("source"), f.path("clone"))
	status, err := f.Quota()
	assert.NilError(t, err)
	assert.Assert(t, status.Inconsistent)
	f.commit()
	status, err = f.WithSysfs(t.TempDir()).Quota()
	assert.NilError(t, err)
	assert.Assert(t, status.Inconsistent)

	assert.NilError(t, f.StartRescan())
	assert.NilError(t, f.WaitRescan(t.Context()))
	f.commit()
	for _, view := range []*btrfs.FS{f.FS, f.WithSysfs(t.TempDir())} {
		status, err = view.Quota()
		assert.NilError(t, err)
		assert.Assert(t, status.Enabled && !status.Inconsistent && !status.Rescanning)
	}
}

func TestWaitRescanGivesUp(t *testing.T) {
	f := newFixture(t, testpool.Options{Quota: btrfs.QuotaFull})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 200 { // enough for a rescan that takes some time
		f.subvolume(fmt.Sprintf("volume%d", time.Now().UnixNano()))
	}
	assert.NilError(t, f.StartRescan())
	assert.NilError(t, f.StartRescan()) // while one is running
	if err := f.WaitRescan(ctx); err != nil {
		assert.ErrorIs(t, err, context.Canceled)
	}
	assert.NilError(t, f.WaitRescan(t.Context()))
}

func TestDropThreshold(t *testing.T) {
	f := newFixture(t, testpool.Options{Quota: btrfs.QuotaFull})
	threshold := func() string {
		content, err := os.ReadFile(fmt.Sprintf("/sys/fs/btrfs/%s/qgroups/drop_subtree_threshold", f.FSID()))
		assert.NilError(t, err)
		return strings.TrimSpace(string(content))
	}
	err := f.SetDropThreshold(2)
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("this kernel has no drop_subtree_threshold (it is older than 6.2)")
	}
	assert.NilError(t, err)
	assert.Equal(t, threshold(), "2")
	assert.NilError(t, f.SetDropThreshold(btrfs.MaxTreeLevel))
	assert.Equal(t, threshold(), strconv.Itoa(btrfs.MaxTreeLevel))
	assert.ErrorIs(t, f.SetDropThreshold(btrfs.MaxTreeLevel+1), unix.EINVAL)
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	assert.NilError(t, err, "%s", out)
}
