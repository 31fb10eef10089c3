package storage

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// healthOf checks the health without the cache.
func healthOf(t *testing.T, ten *Tenant, volume string) []string {
	t.Helper()
	_ = commitNow(ten.store) // updates the counts; fails on a read-only filesystem
	ten.store.healthCache = healthCache{}
	v, err := ten.GetVolume(t.Context(), volume)
	assert.NilError(t, err)
	report, err := ten.Report(t.Context(), volume)
	assert.NilError(t, err)
	usage, err := ten.Usage(t.Context(), v.ID)
	assert.NilError(t, err)
	found := reasons(ten.Health(t.Context()).Of(v, usage[v.ID]))
	assert.DeepEqual(t, found, reasons(report.Conditions)) // the report for the node
	return append([]string{}, found...)
}

// degradedVolumes returns the names in a list of degraded volumes.
func degradedVolumes(t *testing.T, ten *Tenant) []string {
	t.Helper()
	page, err := ten.ListVolumes(t.Context(), Query{Degraded: true})
	assert.NilError(t, err)
	names := []string{}
	for _, v := range page.Items {
		names = append(names, v.Name)
	}
	assert.Equal(t, page.Total, len(names))
	return names
}

func TestHealthOfVolumes(t *testing.T) {
	t.Parallel()
	for _, mode := range []Quota{QuotaFull, QuotaSimple} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			pool := newPool(t)
			ten := mustTenant(t, open(t, Config{BasePath: pool.Dir, Quota: mode}, newMemoryExporter()))
			mustCreate(t, ten, "well")
			v := mustCreate(t, ten, "v") // 64 MiB
			assert.DeepEqual(t, healthOf(t, ten, "v"), []string{})
			assert.DeepEqual(t, degradedVolumes(t, ten), []string{})

			assert.NilError(t, writeBytes(v.Path, "much", 61*mib))
			assert.DeepEqual(t, healthOf(t, ten, "v"), []string{agentapi.ReasonVolumeNearlyFull})
			assert.DeepEqual(t, degradedVolumes(t, ten), []string{"v"})

			assert.ErrorIs(t, writeBytes(v.Path, "more", 8*mib), unix.EDQUOT)
			writeToTheEnd(t, v.Path)
			assert.DeepEqual(t, healthOf(t, ten, "v"), []string{agentapi.ReasonVolumeFull})
			assert.DeepEqual(t, degradedVolumes(t, ten), []string{"v"})

			_, err := ten.UpdateVolume(t.Context(), "v", VolumeUpdate{SizeBytes: ptr(128 * mib)})
			assert.NilError(t, err)
			assert.DeepEqual(t, healthOf(t, ten, "v"), []string{})
			assert.DeepEqual(t, healthOf(t, ten, "well"), []string{})
		})
	}
}

// writeToTheEnd writes small pieces until the kernel refuses.
func writeToTheEnd(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, dataDir, "rest"))
	for err == nil {
		if _, err = f.Write(make([]byte, 64<<10)); err == nil {
			err = f.Sync()
		}
	}
	assert.ErrorIs(t, err, unix.EDQUOT)
	if f != nil {
		assert.NilError(t, f.Close())
	}
}

func TestHealthOfExports(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	exporter := newMemoryExporter()
	ten := mustTenant(t, open(t, Config{BasePath: pool.Dir}, exporter))
	mustCreate(t, ten, "well")
	v := mustCreate(t, ten, "v")
	for _, client := range []netip.Addr{client1, client2} {
		_, err := ten.Export(t.Context(), "v", ExportSpec{Client: client})
		assert.NilError(t, err)
	}
	assert.DeepEqual(t, healthOf(t, ten, "v"), []string{})
	exporter.drop(nfs.Export{Path: v.DataPath(), FSID: v.UUID, Client: client1})
	assert.DeepEqual(t, healthOf(t, ten, "v"), []string{agentapi.ReasonExportMissing})
	assert.DeepEqual(t, degradedVolumes(t, ten), []string{"v"})
	ten.store.maintain(t.Context())
	assert.DeepEqual(t, healthOf(t, ten, "v"), []string{})
	assert.DeepEqual(t, degradedVolumes(t, ten), []string{})
}

// An export of another program replaces the NFSv4 root of the volumes.
func TestHealthBesideAnotherRoot(t *testing.T) {
	t.Parallel()
	exporter := newMemoryExporter()
	ten := mustTenant(t, open(t, Config{BasePath: newPool(t).Dir}, exporter))
	mustCreate(t, ten, "v")
	assert.DeepEqual(t, healthOf(t, ten, "v"), []string{})
	exporter.setRoots(nfs.Export{Path: "/srv/media", Spec: "*"})
	assert.DeepEqual(t, healthOf(t, ten, "v"), []string{agentapi.ReasonExportRootForeign})
	assert.DeepEqual(t, reasons(ten.store.Conditions()), []string{agentapi.ReasonExportRootForeign})
	for _, c := range ten.store.Conditions() {
		assert.Assert(t, !strings.Contains(c.Message, "media"), "anyone may read it")
	}
	exporter.setRoots()
	assert.DeepEqual(t, healthOf(t, ten, "v"), []string{})
}

// A check during an export does not report that export as missing.
func TestHealthWhileAnExportIsUnderWay(t *testing.T) {
	t.Parallel()
	r := newTestEnv(t, smallPool)
	mustCreate(t, r.ten, "w")
	looked := false
	var found map[string]int
	r.faults.watch(func(step string) {
		if step != "export" || looked {
			return
		}
		looked = true
		ctx, cancel := context.WithTimeout(t.Context(), exportsTimeout/10)
		defer cancel()
		var err error
		found, err = r.store.missingExports(ctx)
		assert.NilError(t, err)
	})
	_, err := r.ten.Export(t.Context(), "w", ExportSpec{Client: client1})
	r.faults.watch(nil)
	assert.NilError(t, err)
	assert.Assert(t, looked)
	assert.Equal(t, len(found), 0)
}

type silentExporter struct{ *memoryExporter }

func (silentExporter) List(context.Context) ([]nfs.Export, error) { return nil, nfs.ErrUnavailable }

func TestHealthWhereTheServerDoesNotTell(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	ten := mustTenant(t, open(t, Config{BasePath: pool.Dir}, silentExporter{newMemoryExporter()}))
	mustCreate(t, ten, "v")
	assert.DeepEqual(t, healthOf(t, ten, "v"), []string{agentapi.ReasonExportsUnknown})
}

func TestHealthOfAReadOnlyPool(t *testing.T) {
	t.Parallel()
	ten, pool := openTenant(t)
	mustCreate(t, ten, "a")
	mustCreate(t, ten, "b")
	remountAll(t, pool.Dir, "ro")
	defer remountAll(t, pool.Dir, "rw")
	assert.DeepEqual(t, healthOf(t, ten, "a"), []string{agentapi.ReasonPoolReadOnly})
	assert.DeepEqual(t, degradedVolumes(t, ten), []string{"a", "b"})
}

func TestHealthOfAMissingDevice(t *testing.T) {
	t.Parallel()
	pool := testpool.New(t, testpool.Options{Devices: 2, Mkfs: []string{"-d", "raid1", "-m", "raid1"}, SizeBytes: 512 << 20})
	pool.LoseDevice()
	ten := mustTenant(t, open(t, Config{BasePath: pool.Dir}, newMemoryExporter()))
	mustCreate(t, ten, "v")
	assert.Assert(t, cmp.Contains(healthOf(t, ten, "v"), agentapi.ReasonDeviceMissing))
}

// A volume in quarantine affects only its own health.
func TestHealthOfQuarantine(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	s := reopened(t, Config{BasePath: pool.Dir, Tenants: []string{tenant}}, newMemoryExporter())
	ten := mustTenant(t, s)
	v := mustCreate(t, ten, "v")
	mustCreate(t, ten, "well")
	assert.NilError(t, s.Close(t.Context()))
	assert.NilError(t, os.Truncate(filepath.Join(v.Path, metadataFile), 0))

	ten = mustTenant(t, open(t, Config{BasePath: pool.Dir}, newMemoryExporter()))
	assert.DeepEqual(t, healthOf(t, ten, "well"), []string{})
	assert.DeepEqual(t, degradedVolumes(t, ten), []string{"v"})
	assert.DeepEqual(t, reasons(ten.store.Conditions()), []string{agentapi.ReasonQuarantined})
}

// A scrub finds data that was damaged on the device.
func TestHealthAfterAScrub(t *testing.T) {
	pool := testpool.New(t, testpool.Options{Mkfs: []string{"-d", "single"}})
	dir := t.TempDir()
	s := open(t, Config{BasePath: pool.Dir, ScrubDir: dir}, newMemoryExporter())
	ten := mustTenant(t, s)
	v := mustCreate(t, ten, "v")
	assert.NilError(t, writeBytes(v.Path, "file", 8*mib))
	assert.NilError(t, commitNow(s))
	pool.Damage(filepath.Join(v.Path, dataDir, "file"))
	dropCaches(t)

	note := "/var/lib/btrfs/scrub.status." + fsid(t, s)
	t.Cleanup(func() { _ = os.Remove(note) })
	out, _ := exec.Command("btrfs", "scrub", "start", "-B", pool.Dir).CombinedOutput() // fails if it finds errors
	t.Logf("%s", out)
	assert.DeepEqual(t, healthOf(t, ten, "v"), []string{agentapi.ReasonCorruptionFound, agentapi.ReasonDeviceErrorsRising})

	text, err := os.ReadFile(note)
	assert.NilError(t, err)
	assert.NilError(t, os.WriteFile(filepath.Join(dir, filepath.Base(note)), text, 0o600))
	assert.DeepEqual(t, healthOf(t, ten, "v"), []string{agentapi.ReasonCorruptionFound, agentapi.ReasonDeviceErrorsRising, agentapi.ReasonScrubUncorrectable})

	btrfsCommand(t, "device", "stats", "-z", pool.Dir)
	assert.DeepEqual(t, healthOf(t, ten, "v"), []string{agentapi.ReasonScrubUncorrectable})
	assert.NilError(t, os.Remove(filepath.Join(v.Path, dataDir, "file")))
	assert.NilError(t, commitNow(s))
	btrfsCommand(t, "scrub", "start", "-B", pool.Dir)
	text, err = os.ReadFile(note)
	assert.NilError(t, err)
	assert.NilError(t, os.WriteFile(filepath.Join(dir, filepath.Base(note)), text, 0o600))
	assert.DeepEqual(t, healthOf(t, ten, "v"), []string{})
}

// A finding stays while later scrubs are cancelled, and after a restart of the agent. Only a
// complete scrub without errors removes it.
func TestScrubFindingStays(t *testing.T) {
	pool := testpool.New(t, testpool.Options{Mkfs: []string{"-d", "single"}})
	s := open(t, Config{BasePath: pool.Dir}, newMemoryExporter())
	v := mustCreate(t, mustTenant(t, s), "v")
	for name, size := range map[string]int64{"file": 8 * mib, "big": 32 * mib} {
		assert.NilError(t, writeBytes(v.Path, name, size))
	}
	assert.NilError(t, commitNow(s))
	pool.Damage(filepath.Join(v.Path, dataDir, "file"))
	dropCaches(t)
	notes := "/var/lib/btrfs/*" + fsid(t, s)
	t.Cleanup(func() {
		files, _ := filepath.Glob(notes)
		for _, file := range files {
			_ = os.Remove(file)
		}
	})
	found := func() bool {
		return slices.Contains(reasons(s.pool.FilesystemConditions()), agentapi.ReasonScrubUncorrectable)
	}
	assert.Assert(t, !found())
	_ = exec.Command("btrfs", "scrub", "start", "-B", pool.Dir).Run() // fails if it finds errors
	s.maintenance.maintainPool(t.Context(), s)
	assert.Assert(t, found())

	// Without the damaged file, later scrubs find nothing.
	assert.NilError(t, os.Remove(filepath.Join(v.Path, dataDir, "file")))
	assert.NilError(t, commitNow(s))
	speed := filepath.Join("/sys/fs/btrfs", fsid(t, s), "devinfo/1/scrub_speed_max")
	assert.NilError(t, os.WriteFile(speed, []byte("1M"), 0))
	assert.NilError(t, exec.Command("btrfs", "scrub", "start", pool.Dir).Run()) // in the background
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if _, running, err := fsOf(t, s).ScrubState(1); err != nil || !running {
			return poll.Continue("no scrub: %v", err)
		}
		return poll.Success()
	}, poll.WithTimeout(time.Minute), poll.WithDelay(10*time.Millisecond))
	assert.Assert(t, found(), "while a scrub runs")
	btrfsCommand(t, "scrub", "cancel", pool.Dir)
	assert.Assert(t, found(), "after a cancelled scrub")
	assert.NilError(t, s.Close(t.Context()))
	s = open(t, Config{BasePath: pool.Dir}, newMemoryExporter())
	assert.Assert(t, found(), "after a restart of the agent")

	assert.NilError(t, os.WriteFile(speed, []byte("0"), 0))
	out, _ := exec.Command("btrfs", "scrub", "resume", "-B", pool.Dir).CombinedOutput()
	assert.Assert(t, !found(), "after a complete scrub: %s", out)
	assert.NilError(t, s.Close(t.Context()))
	s = open(t, Config{BasePath: pool.Dir}, newMemoryExporter())
	assert.Assert(t, !found())
}

func fsid(t *testing.T, s *Store) string {
	t.Helper()
	return fsOf(t, s).FSID().String()
}

// Frequent requests for health do not read the devices each time.
func TestConditionsLookAtTheFilesystemNowAndThen(t *testing.T) {
	t.Parallel()
	s := mustTenant(t, open(t, Config{BasePath: newPool(t).Dir}, newMemoryExporter())).store
	begin := time.Now()
	s.Conditions()
	_, first := s.healthCache.filesystem.last()
	assert.Assert(t, !first.IsZero())
	for range 100 {
		s.Conditions()
	}
	_, last := s.healthCache.filesystem.last()
	assert.Assert(t, last.Equal(first) || time.Since(begin) >= healthFor)
}

// Clients request health and readiness without a token. These requests read no volume and no
// snapshot.
func TestConditionsWalkNoVolumes(t *testing.T) {
	t.Parallel()
	ten := mustTenant(t, open(t, Config{BasePath: newPool(t).Dir}, newMemoryExporter()))
	for i := range 20 {
		ten.volumes.put(Volume{Name: fmt.Sprintf("v%d", i), Quarantine: "because"})
		ten.snapshots.put(Snapshot{Name: fmt.Sprintf("s%d", i), Quarantine: "because"})
	}
	ten.volumes.put(Volume{Name: "v0"})
	ten.volumes.remove("v1")
	ten.snapshots.remove("s0")

	volumes, snapshots := ten.volumes.items, ten.snapshots.items
	ten.volumes.items, ten.snapshots.items = nil, nil // a walk would panic
	conditions := ten.store.Conditions()
	assert.NilError(t, ten.store.Ready())
	ten.volumes.items, ten.snapshots.items = volumes, snapshots
	assert.Equal(t, len(conditions), 1)
	assert.Equal(t, conditions[0].Message, "37 volumes or snapshots are quarantined")
}
