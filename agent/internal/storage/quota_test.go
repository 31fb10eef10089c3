package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// assertEnforced verifies that the volume accepts some more bytes, but not tooMany.
func assertEnforced(t *testing.T, dir string, some, tooMany int64) {
	t.Helper()
	assert.NilError(t, writeBytes(dir, time.Now().Format("some-150405.000000000"), some))
	err := writeBytes(dir, time.Now().Format("many-150405.000000000"), tooMany)
	assert.Assert(t, errors.Is(err, unix.EDQUOT), "writing beyond the limit: %v", err)
}

func TestLimitsAreEnforced(t *testing.T) {
	for _, mode := range []Quota{QuotaFull, QuotaSimple} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			pool := newPool(t)
			config := Config{BasePath: pool.Dir, Tenants: []string{tenant}, Quota: mode}
			s := reopened(t, config, newMemoryExporter())
			t.Cleanup(func() { s.abandon() })
			ten := mustTenant(t, s)
			ctx := t.Context()

			v, _, err := ten.CreateVolume(ctx, VolumeSpec{Name: "v", SizeBytes: 16 * mib})
			assert.NilError(t, err)
			assertEnforced(t, v.Path, 4*mib, 16*mib)

			_, _, err = ten.CreateSnapshot(ctx, SnapshotSpec{Name: "s", Volume: "v"}) // of a full volume
			assert.NilError(t, err)
			c, _, err := ten.Clone(ctx, CloneSpec{Name: "c", Snapshot: "s", SizeBytes: 64 * mib})
			assert.NilError(t, err)
			assertEnforced(t, c.Path, 16*mib, 64*mib)
			same, _, err := ten.Clone(ctx, CloneSpec{Name: "same", Volume: "v", SizeBytes: 24 * mib})
			assert.NilError(t, err)
			assertEnforced(t, same.Path, 2*mib, 32*mib)

			_, err = ten.UpdateVolume(ctx, "v", VolumeUpdate{SizeBytes: ptr(48 * mib)})
			assert.NilError(t, err)
			assertEnforced(t, v.Path, 16*mib, 48*mib)

			assert.NilError(t, ten.DeleteSnapshot(ctx, "s"))
			assertEnforcedStill(t, v.Path, c.Path, same.Path)
			s.abandon() // as a crash does, which loses the last writes
			pool.PowerCut()
			s = reopened(t, config, newMemoryExporter())
			assertEnforcedStill(t, v.Path, c.Path, same.Path)
			if mode == QuotaFull {
				assert.NilError(t, fsOf(t, s).StartRescan())
				assert.NilError(t, fsOf(t, s).WaitRescan(ctx))
				assertEnforcedStill(t, v.Path, c.Path, same.Path)
			}
			assertRules(t, s)
		})
	}
}

func assertEnforcedStill(t *testing.T, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		err := writeBytes(dir, "still", 64*mib)
		assert.Assert(t, errors.Is(err, unix.EDQUOT), "writing beyond the limit of %s: %v", dir, err)
	}
}

func TestQuotaModes(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		want    Quota
		have    btrfs.QuotaMode
		mode    btrfs.QuotaMode
		refusal string
	}{
		{"auto turns full on", QuotaAuto, btrfs.QuotaOff, btrfs.QuotaFull, ""},
		{"auto takes simple", QuotaAuto, btrfs.QuotaSimple, btrfs.QuotaSimple, ""},
		{"auto takes full", QuotaAuto, btrfs.QuotaFull, btrfs.QuotaFull, ""},
		{"none is auto", "", btrfs.QuotaSimple, btrfs.QuotaSimple, ""},
		{"off leaves it off", QuotaOff, btrfs.QuotaOff, btrfs.QuotaOff, ""},
		{"off leaves it on", QuotaOff, btrfs.QuotaFull, btrfs.QuotaFull, ""},
		{"full is not simple", QuotaFull, btrfs.QuotaSimple, btrfs.QuotaSimple, "AGENT_QUOTA_MODE is full, but the filesystem has simple"},
		{"simple is not full", QuotaSimple, btrfs.QuotaFull, btrfs.QuotaFull, "AGENT_QUOTA_MODE is simple, but the filesystem has full"},
		{"unknown", "on", btrfs.QuotaOff, btrfs.QuotaOff, `"on" is not one of auto, full, simple, off`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			pool := testpool.New(t, testpool.Options{SizeBytes: 256 << 20, Quota: test.have})
			s, err := Open(t.Context(), initialised(t, Config{BasePath: pool.Dir, Tenants: []string{tenant}, Quota: test.want}), newMemoryExporter())
			fs := openFS(t, pool.Dir)
			status, statusErr := fs.Quota()
			assert.NilError(t, statusErr)
			assert.Equal(t, status.Mode, test.mode)
			if test.refusal != "" {
				assert.ErrorContains(t, err, test.refusal)
				return
			}
			assert.NilError(t, err)
			defer func() { assert.NilError(t, s.Close(context.Background())) }()
			mustCreate(t, mustTenant(t, s), "v")
			report, err := mustTenant(t, s).Report(t.Context(), "v")
			assert.NilError(t, err)
			if test.want == QuotaOff {
				assert.Equal(t, report.QuotaBytes, int64(0))
			} else {
				assert.Equal(t, report.QuotaBytes, 64*mib)
			}
			assertRules(t, s)
		})
	}
}

func openFS(t *testing.T, dir string) *btrfs.FS {
	t.Helper()
	fs, err := btrfs.Open(dir)
	assert.NilError(t, err)
	t.Cleanup(func() { fs.Close() })
	return fs
}

// A snapshot with qgroup inheritance makes the quotas inconsistent, and limits are not enforced.
// The store reports it, and maintenance repairs it.
func TestInconsistentQuotasAreReportedAndCured(t *testing.T) {
	t.Parallel()
	ten, pool := openTenant(t)
	s := ten.store
	v, _, err := ten.CreateVolume(t.Context(), VolumeSpec{Name: "v", SizeBytes: 16 * mib})
	assert.NilError(t, err)
	assert.NilError(t, writeBytes(v.Path, "first", 8*mib))
	btrfsCommand(t, "qgroup", "create", "1/0", pool.Dir)
	btrfsCommand(t, "subvolume", "snapshot", "-i", "1/0", filepath.Join(v.Path, dataDir), filepath.Join(pool.Dir, "foreign"))
	assert.NilError(t, commitNow(s))
	assert.Assert(t, cmp.Contains(reasons(s.Conditions()), "QuotaInconsistent"))
	report, err := ten.Report(t.Context(), "v")
	assert.NilError(t, err)
	assert.Assert(t, cmp.Contains(reasons(report.Conditions), "QuotaInconsistent"))

	s.maintain(t.Context())
	testpool.Eventually(t, func() poll.Result {
		return testpool.When(len(s.Conditions()) == 0, "conditions are %v", s.Conditions())
	})
	assertEnforced(t, v.Path, mib, 32*mib)
	btrfsCommand(t, "subvolume", "delete", filepath.Join(pool.Dir, "foreign"))
	assertRules(t, s)
}

func btrfsCommand(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command("btrfs", args...).CombinedOutput()
	assert.NilError(t, err, "btrfs %v: %s", args, out)
}

// The next start sets lost limits again.
func TestLostLimitsAreSetAgain(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	config := Config{BasePath: pool.Dir, Tenants: []string{tenant}}
	s := reopened(t, config, newMemoryExporter())
	ten := mustTenant(t, s)
	withSnapshot(t, ten)
	clone, _, err := ten.Clone(t.Context(), CloneSpec{Name: "c", Snapshot: "s", SizeBytes: 16 * 4 * mib * 2})
	assert.NilError(t, err)
	assert.NilError(t, fsOf(t, s).SetLimit(clone.ID, 0))
	v, err := ten.GetVolume(t.Context(), "v")
	assert.NilError(t, err)
	assert.NilError(t, fsOf(t, s).SetLimit(v.ID, uint64(mib)))
	assert.NilError(t, s.Close(t.Context()))

	s = reopened(t, config, newMemoryExporter())
	t.Cleanup(func() { assert.NilError(t, s.Close(context.Background())) })
	assertRules(t, s)
	assertEnforced(t, v.Path, 8*mib, 64*mib)
	assertEnforced(t, clone.Path, 8*mib, 128*mib)
}

// An administrator disables the quotas while the agent runs. The agent refuses new volumes with
// limits, and continues with requests that need no limit. The next start enables the quotas.
func TestQuotasTurnedOffUnderTheAgent(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	config := Config{BasePath: pool.Dir, Tenants: []string{tenant}}
	s := reopened(t, config, newMemoryExporter())
	ten := mustTenant(t, s)
	v := mustCreate(t, ten, "v")
	mustCreate(t, ten, "gone")
	pool.DisableQuota()
	assert.Assert(t, cmp.Contains(reasons(s.Conditions()), "QuotaDisabled"))
	ctx := t.Context()

	_, _, err := ten.CreateVolume(ctx, VolumeSpec{Name: "new", SizeBytes: 16 * mib})
	assertCode(t, err, agentapi.Unavailable)
	assert.ErrorContains(t, err, "quota")
	_, _, err = ten.Clone(ctx, CloneSpec{Name: "new", Volume: "v"})
	assertCode(t, err, agentapi.Unavailable)
	_, err = ten.UpdateVolume(ctx, "v", VolumeUpdate{SizeBytes: ptr(128 * mib)})
	assertCode(t, err, agentapi.Unavailable)
	_, err = ten.UpdateVolume(ctx, "v", VolumeUpdate{Labels: map[string]string{"a": "b"}})
	assert.NilError(t, err)
	_, err = ten.Usage(ctx, v.ID)
	assert.NilError(t, err)
	report, err := ten.Report(ctx, "v")
	assert.NilError(t, err)
	assert.Assert(t, cmp.Contains(reasons(report.Conditions), "QuotaDisabled"))
	assert.NilError(t, ten.DeleteVolume(ctx, "gone"))
	s.maintain(ctx)
	assert.NilError(t, s.Close(ctx))

	s = reopened(t, config, newMemoryExporter())
	t.Cleanup(func() { assert.NilError(t, s.Close(context.Background())) })
	assertEnforced(t, v.Path, mib, 128*mib)
	assertRules(t, s)
}

// In simple mode the qgroup of a deleted source stays as long as a clone uses its data, and is
// removed after that.
func TestSimpleQuotaGroupsAreReapedInTheEnd(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	s := open(t, Config{BasePath: pool.Dir, Quota: QuotaSimple}, newMemoryExporter())
	ten := mustTenant(t, s)
	ctx := t.Context()
	v := mustCreate(t, ten, "v")
	assert.NilError(t, writeBytes(v.Path, "data", 4*mib))
	_, _, err := ten.Clone(ctx, CloneSpec{Name: "c", Volume: "v"})
	assert.NilError(t, err)
	assert.NilError(t, ten.DeleteVolume(ctx, "v"))
	s.maintain(ctx)
	assert.NilError(t, ten.DeleteVolume(ctx, "c"))
	testpool.Eventually(t, func() poll.Result {
		s.maintain(ctx)
		groups, err := fsOf(t, s).Qgroups()
		if err != nil {
			return poll.Error(err)
		}
		assert.NilError(t, commitNow(s))
		delete(groups, 5)
		return testpool.When(len(groups) == 1, "qgroups are left: %v", groups) // the qgroup of the reserve stays
	})
}

// The qgroups of subvolumes with open files are left for later, and removed then.
func TestQgroupsAreReapedAfterSlowDeletions(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	config := Config{BasePath: pool.Dir, Tenants: []string{tenant}, Quota: QuotaSimple}
	s := reopened(t, config, newMemoryExporter())
	ten := mustTenant(t, s)
	ctx := t.Context()
	v := mustCreate(t, ten, "v")
	assert.NilError(t, writeBytes(v.Path, "data", 4*mib))
	c, _, err := ten.Clone(ctx, CloneSpec{Name: "c", Volume: "v"})
	assert.NilError(t, err)
	// An inode in use keeps the kernel from dropping its subvolume (btrfs_add_dead_root is called
	// at its eviction, fs/btrfs/inode.c).
	source, clone := openPath(t, filepath.Join(v.Path, dataDir, "data")), openPath(t, filepath.Join(c.Path, dataDir, "data"))
	defer source.Close()
	defer clone.Close()
	assert.NilError(t, ten.DeleteVolume(ctx, "v"))
	assert.NilError(t, ten.DeleteVolume(ctx, "c"))
	s.abandon()

	s = reopened(t, config, newMemoryExporter())
	t.Cleanup(func() { assert.NilError(t, s.Close(context.Background())) })
	assert.NilError(t, source.Close())
	awaitStale := func(want ...uint64) {
		testpool.Eventually(t, func() poll.Result {
			stale, _, err := fsOf(t, s).StaleQgroups(ctx)
			return testpool.When(err == nil && slices.Equal(stale, want), "stale are %v, not yet %v: %v", stale, want, err)
		})
	}
	awaitStale(v.ID)
	assert.NilError(t, clone.Close())
	testpool.Eventually(t, func() poll.Result {
		s.maintain(ctx)
		stale, _, err := fsOf(t, s).StaleQgroups(ctx)
		assert.NilError(t, err)
		return testpool.When(len(stale) == 0, "stale are %v", stale)
	})
}

// A limit that cannot be set at start affects only its volume. The agent tries again, and can
// delete the volume even if it has no qgroup.
func TestLimitThatCannotBeSetAtStart(t *testing.T) {
	t.Parallel()
	for _, failure := range []error{unix.EIO, btrfs.ErrNoQgroup} {
		pool := newPool(t)
		s := reopened(t, Config{BasePath: pool.Dir, Tenants: []string{tenant}}, newMemoryExporter())
		v := mustCreate(t, mustTenant(t, s), "v")
		mustCreate(t, mustTenant(t, s), "well")
		assert.NilError(t, fsOf(t, s).SetLimit(v.ID, 0))
		assert.NilError(t, s.Close(t.Context()))

		var broken atomic.Bool
		broken.Store(true)
		s = reopened(t, Config{BasePath: pool.Dir, Tenants: []string{tenant}, fault: func(step string) error {
			if step == "limit" && broken.Load() {
				return failure
			}
			return nil
		}}, newMemoryExporter())
		assert.NilError(t, mustTenant(t, s).DeleteVolume(t.Context(), "well"))
		if errors.Is(failure, unix.EIO) {
			broken.Store(false)
			s.maintain(t.Context())
			assertLimits(t, s)
		}
		assert.NilError(t, mustTenant(t, s).DeleteVolume(t.Context(), "v"))
		assert.NilError(t, s.Close(t.Context()))
	}
}

// With quotas off no limit is enforced, even if an earlier start has set limits. That includes
// clones of older volumes and snapshots. The next start with quotas on sets the limits again.
func TestQuotaOffAfterLimitsWereSet(t *testing.T) {
	t.Parallel()
	for _, mode := range []Quota{QuotaFull, QuotaSimple} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			pool := newPool(t)
			on := Config{BasePath: pool.Dir, Tenants: []string{tenant}, Quota: mode}
			off := on
			off.Quota = QuotaOff
			ctx := t.Context()
			s := reopened(t, on, newMemoryExporter())
			v := mustCreate(t, mustTenant(t, s), "v") // 64 MiB
			withSnapshotOf(t, mustTenant(t, s), "v")
			assert.NilError(t, s.Close(ctx))

			found, err := Inspect(ctx, off, false)
			assert.NilError(t, err)
			assert.Assert(t, len(found) > 0 && found[0].Kind == ondisk.WrongLimit, "%v", found)
			s = reopened(t, off, newMemoryExporter())
			ten := mustTenant(t, s)
			assert.NilError(t, writeBytes(v.Path, "much", 80*mib))
			for name, spec := range map[string]CloneSpec{"of-volume": {Volume: "v"}, "of-snapshot": {Snapshot: "s"}} {
				spec.Name = name
				c, _, err := ten.Clone(ctx, spec)
				assert.NilError(t, err)
				assert.NilError(t, writeBytes(c.Path, "more", 80*mib))
			}
			assert.NilError(t, fsOf(t, s).SetLimit(v.ID, uint64(mib))) // by hand on the host
			_, err = ten.UpdateVolume(ctx, "v", VolumeUpdate{SizeBytes: ptr(128 * mib)})
			assert.NilError(t, err)
			assert.NilError(t, writeBytes(v.Path, "further", 80*mib))
			assert.NilError(t, s.Close(ctx))

			s = open(t, on, newMemoryExporter())
			assertLimits(t, s)
			assert.ErrorIs(t, writeBytes(v.Path, "beyond", 64*mib), unix.EDQUOT)
		})
	}
}

func withSnapshotOf(t *testing.T, ten *Tenant, volume string) {
	t.Helper()
	_, _, err := ten.CreateSnapshot(t.Context(), SnapshotSpec{Name: "s", Volume: volume})
	assert.NilError(t, err)
}

// If a volume is too full for a change, the error names the volume and not the pool.
func TestChangesOfAFullVolume(t *testing.T) {
	t.Parallel()
	ten, _ := openTenant(t)
	v := mustCreate(t, ten, "v")
	assert.ErrorIs(t, writeBytes(v.Path, "much", 80*mib), unix.EDQUOT)
	writeToTheEnd(t, v.Path)
	for round := range 4 { // a commit releases unused reservations
		fillWithFiles(t, filepath.Join(v.Path, dataDir), fmt.Sprint("empty", round, "-"))
		assert.NilError(t, commitNow(ten.store))
	}
	_, err := ten.UpdateVolume(t.Context(), "v", VolumeUpdate{RequestedProperties: chosen{Compression: ptr("zstd")}})
	assertCode(t, err, agentapi.NoSpace)
	assert.ErrorContains(t, err, "grow it")
	assert.Assert(t, !strings.Contains(err.Error(), "the pool is full"), "%v", err)
	_, err = ten.UpdateVolume(t.Context(), "v", VolumeUpdate{SizeBytes: ptr(128 * mib)})
	assert.NilError(t, err)
	ten.store.maintain(t.Context())
	_, err = ten.UpdateVolume(t.Context(), "v", VolumeUpdate{RequestedProperties: chosen{Compression: ptr("zstd")}})
	assert.NilError(t, err)
}

// fillWithFiles creates empty files until the kernel refuses.
func fillWithFiles(t *testing.T, dir, name string) {
	t.Helper()
	for i := range 100_000 {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(name, i)))
		if err != nil {
			assert.ErrorIs(t, err, unix.EDQUOT)
			return
		}
		assert.NilError(t, f.Close())
	}
	t.Fatal("the volume takes 100,000 files more")
}
