package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/openat2"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// The tests here are named after bugs in other projects, and show that this project does not have
// them.

func TestParallelCreatesOfOneNameMakeOneVolume(t *testing.T) {
	t.Parallel()
	ten, _ := openTenant(t)
	const rounds, callers = 40, 8
	for round := range rounds {
		spec := VolumeSpec{Name: fmt.Sprintf("v%d", round), SizeBytes: 16 * mib}
		var answers [callers]Volume
		var made [callers]bool
		var wg sync.WaitGroup
		for i := range callers {
			wg.Go(func() {
				var err error
				answers[i], made[i], err = ten.CreateVolume(t.Context(), spec)
				assert.Check(t, err)
				if made[i] {
					fill(t, answers[i].Path, "of the winner")
				}
			})
		}
		wg.Wait()
		winners := 0
		for i := range callers {
			assert.DeepEqual(t, answers[i], answers[0], compareAddr)
			if made[i] {
				winners++
			}
		}
		assert.Equal(t, winners, 1)
		assert.Equal(t, contents(t, answers[0].Path), "of the winner")
	}
	assertRules(t, ten.store)
}

func TestUnreadableMetadataIsQuarantinedWithItsData(t *testing.T) {
	t.Parallel()
	damages := map[string]func(t *testing.T, file string){
		"empty":       func(t *testing.T, file string) { assert.NilError(t, os.Truncate(file, 0)) },
		"missing":     func(t *testing.T, file string) { assert.NilError(t, os.Remove(file)) },
		"garbage":     func(t *testing.T, file string) { replace(t, file, "\x00\x00\x00\x00") },
		"cut":         func(t *testing.T, file string) { assert.NilError(t, os.Truncate(file, 40)) },
		"from-future": func(t *testing.T, file string) { replace(t, file, `{"version":3,"name":"from-future"}`) },
		"no-version":  func(t *testing.T, file string) { replace(t, file, `{}`) },
		"others":      func(t *testing.T, file string) { edit(t, file, `"others"`, `"somebody"`) },
		"odd-mode":    func(t *testing.T, file string) { edit(t, file, `"2770"`, `"9999"`) },
		"huge":        func(t *testing.T, file string) { replace(t, file, strings.Repeat(" ", openat2.MaxBytes+1)) },
		"fifo":        func(t *testing.T, file string) { os.Remove(file); assert.NilError(t, unix.Mkfifo(file, 0o600)) },
		"fifo-in-use": func(t *testing.T, file string) {
			os.Remove(file)
			assert.NilError(t, unix.Mkfifo(file, 0o600))
			writer, err := os.OpenFile(file, os.O_RDWR, 0)
			assert.NilError(t, err)
			t.Cleanup(func() { writer.Close() })
		},
		"symlink": func(t *testing.T, file string) {
			os.Remove(file)
			assert.NilError(t, os.Symlink("/etc/hostname", file))
		},
		"a-directory":  func(t *testing.T, file string) { os.Remove(file); assert.NilError(t, os.Mkdir(file, 0o700)) },
		"bad-ref":      func(t *testing.T, file string) { spoilReference(t, filepath.Dir(file)) },
		"bad-ref-name": func(t *testing.T, file string) { renameReference(t, filepath.Dir(file)) },
	}
	pool := newPool(t)
	config := Config{BasePath: pool.Dir, Tenants: []string{tenant}}
	s := reopened(t, config, newMemoryExporter())
	ten := mustTenant(t, s)
	mustCreate(t, ten, "healthy")
	for name := range damages {
		fill(t, mustCreate(t, ten, name).Path, "precious")
	}
	assert.NilError(t, s.Close(t.Context()))
	for name, damage := range damages {
		damage(t, filepath.Join(ten.volumeDir.Path(name), metadataFile))
	}

	s = reopened(t, config, newMemoryExporter())
	t.Cleanup(func() { assert.NilError(t, s.Close(context.Background())) })
	ten = mustTenant(t, s)
	for name := range damages {
		assertQuarantined(t, ten, name)
	}
	assert.Assert(t, cmp.Contains(reasons(s.Conditions()), "Quarantined"))
	// Other volumes still work.
	healthy, err := ten.GetVolume(t.Context(), "healthy")
	assert.NilError(t, err)
	assert.Equal(t, healthy.Quarantine, "")
	assert.NilError(t, ten.DeleteVolume(t.Context(), "healthy"))
	mustCreate(t, ten, "healthy")
}

// assertQuarantined verifies that every request for the volume is refused with a clear error, and
// that its data stays.
func assertQuarantined(t *testing.T, ten *Tenant, name string) {
	t.Helper()
	ctx := t.Context()
	v, err := ten.GetVolume(ctx, name)
	assert.NilError(t, err)
	assert.Assert(t, v.Quarantine != "", name)
	_, created, err := ten.CreateVolume(ctx, VolumeSpec{Name: name, SizeBytes: 64 * mib})
	assertCode(t, err, agentapi.AlreadyExists)
	assert.ErrorContains(t, err, "quarantined")
	assert.Assert(t, !created)
	_, _, err = ten.Clone(ctx, CloneSpec{Name: name, Volume: "healthy"})
	assertCode(t, err, agentapi.AlreadyExists)
	_, _, err = ten.Clone(ctx, CloneSpec{Name: "clone", Volume: name})
	assertCode(t, err, agentapi.Quarantined)
	_, _, err = ten.CreateSnapshot(ctx, SnapshotSpec{Name: "snapshot", Volume: name})
	assertCode(t, err, agentapi.Quarantined)
	_, err = ten.UpdateVolume(ctx, name, VolumeUpdate{SizeBytes: ptr(128 * mib)})
	assertCode(t, err, agentapi.Quarantined)
	_, err = ten.Export(ctx, name, ExportSpec{Client: client1})
	assertCode(t, err, agentapi.Quarantined)
	assertCode(t, ten.DeleteVolume(ctx, name), agentapi.Quarantined)
	assert.Equal(t, contents(t, ten.volumeDir.Path(name)), "precious", name)
}

func replace(t *testing.T, file, content string) {
	t.Helper()
	assert.NilError(t, os.WriteFile(file, []byte(content), 0o600))
}

func edit(t *testing.T, file, from, to string) {
	t.Helper()
	content, err := os.ReadFile(file)
	assert.NilError(t, err)
	assert.Assert(t, cmp.Contains(string(content), from))
	replace(t, file, strings.Replace(string(content), from, to, 1))
}

func spoilReference(t *testing.T, dir string) {
	t.Helper()
	clients := filepath.Join(dir, clientsDir)
	assert.NilError(t, os.Mkdir(clients, 0o700))
	replace(t, filepath.Join(clients, Ref{Client: client1}.FileName()), `{"client":`)
}

func renameReference(t *testing.T, dir string) {
	t.Helper()
	clients := filepath.Join(dir, clientsDir)
	assert.NilError(t, os.Mkdir(clients, 0o700))
	replace(t, filepath.Join(clients, Ref{Client: client2}.FileName()), `{"client":"10.0.0.1"}`)
}

func reasons(conditions []Condition) []string {
	var out []string
	for _, c := range conditions {
		out = append(out, c.Reason)
	}
	return out
}

func TestInterruptedCloneDoesNotNest(t *testing.T) {
	t.Parallel()
	r := newTestEnv(t, smallPool)
	ctx := t.Context()
	withSnapshot(t, r.ten)
	spec := CloneSpec{Name: "c", Snapshot: "s", SizeBytes: 128 * mib, RequestedProperties: chosen{Uid: ptr(int64(7)), Compression: ptr("zstd")}}
	for _, last := range []string{"snapshot", "limit", "storage, second part", "chown", "replace"} {
		r.killBefore(last, func() error { _, _, err := r.ten.Clone(ctx, spec); return err })
		v, _, err := r.ten.Clone(ctx, spec)
		assert.NilError(t, err)
		assert.DeepEqual(t, entries(t, filepath.Join(v.Path, dataDir)), []string{"file"})
		assertRules(t, r.store)
		assert.NilError(t, r.ten.DeleteVolume(ctx, "c"))
		assertRules(t, r.store)
	}
}

// killBefore kills the agent before the first step of that name, and starts it again.
func (r *testEnv) killBefore(step string, do func() error) {
	r.t.Helper()
	r.faults.killBefore(step)
	assert.Assert(r.t, errors.Is(do(), errKilled))
	r.store.abandon()
	r.faults.disarm()
	r.open()
}

func TestInterruptedCreateIsFinishedByTheSameRequest(t *testing.T) {
	t.Parallel()
	r := newTestEnv(t, smallPool)
	for _, step := range []string{"create subvolume", "limit", "flush", "rename", "commit"} {
		create := func() error {
			_, _, err := r.ten.CreateVolume(t.Context(), VolumeSpec{Name: "v", SizeBytes: 16 * mib})
			return err
		}
		r.killBefore(step, create)
		assert.NilError(t, create(), step)
		grant, err := r.ten.Export(t.Context(), "v", ExportSpec{Client: client1})
		assert.NilError(t, err)
		assert.Equal(t, grant.MountPath, r.ten.volumeDir.Path("v")+"/data")
		assertRules(t, r.store)
		wipe(t, r.ten)
	}
}

func TestInterruptedDeleteLeavesNoPhantom(t *testing.T) {
	t.Parallel()
	r := newTestEnv(t, smallPool)
	for _, step := range []string{"rename", "destroy subvolume", "unlink", "rmdir", "commit"} {
		withVolume(t, r.ten)
		r.killBefore(step, func() error { return r.ten.DeleteVolume(t.Context(), "v") })
		for range 2 {
			assert.NilError(t, r.ten.DeleteVolume(t.Context(), "v"), step)
		}
		_, err := r.ten.GetVolume(t.Context(), "v")
		assertCode(t, err, agentapi.NotFound)
		assertRules(t, r.store)
	}
}

func TestVolumeCannotBeCalledSnapshots(t *testing.T) {
	t.Parallel()
	ten, _ := openTenant(t)
	ctx := t.Context()
	withSnapshot(t, ten)
	for _, name := range []string{"snapshots", ".agent", ".new-1", ".trash-1", ".", "..", "snapshots/s", "v/data"} {
		_, _, err := ten.CreateVolume(ctx, VolumeSpec{Name: name, SizeBytes: 16 * mib})
		assertCode(t, err, agentapi.Invalid)
		_, _, err = ten.Clone(ctx, CloneSpec{Name: name, Volume: "v"})
		assertCode(t, err, agentapi.Invalid)
		assertCode(t, ten.DeleteVolume(ctx, name), agentapi.Invalid)
		assertCode(t, ten.DeleteSnapshot(ctx, name), agentapi.Invalid)
	}
	_, err := ten.GetSnapshot(ctx, "s")
	assert.NilError(t, err)
	assertRules(t, ten.store)
}

func TestUsedBytesBelowASubvolume(t *testing.T) {
	t.Parallel()
	pool := testpool.New(t, testpool.Options{Subvolume: "@"})
	base := filepath.Join(pool.Dir, "deep", "down")
	assert.NilError(t, os.MkdirAll(base, 0o755))
	ten := mustTenant(t, open(t, Config{BasePath: base}, newMemoryExporter()))
	v := mustCreate(t, ten, "v")
	assert.NilError(t, writeBytes(v.Path, "big", 8*mib))
	assert.NilError(t, commitNow(ten.store))
	report, err := ten.Report(t.Context(), "v")
	assert.NilError(t, err)
	assert.Assert(t, report.UsedBytes >= 8*mib && report.UsedBytes < 9*mib, "used %d", report.UsedBytes)
	usage, err := ten.Usage(t.Context(), v.ID)
	assert.NilError(t, err)
	assert.Equal(t, usage[v.ID].UsedBytes, report.UsedBytes)
	assert.Assert(t, errors.Is(writeBytes(v.Path, "more", 64*mib), unix.EDQUOT))
	assertRules(t, ten.store)
}

// writeBytes writes a new durable file of that size, which does not compress.
func writeBytes(dir, name string, size int64) error {
	f, err := os.Create(filepath.Join(dir, dataDir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, mib)
	for i := range block {
		block[i] = byte(i * 7)
	}
	for ; size > 0; size -= mib {
		if _, err := f.Write(block); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return nil
}

func TestExportsThatNobodyMeantAreRevoked(t *testing.T) {
	t.Parallel()
	r := newTestEnv(t, smallPool)
	withExport(t, r.ten)
	want := r.view()
	v, err := r.ten.GetVolume(t.Context(), "v")
	assert.NilError(t, err)
	m := r.exporter.memoryExporter
	drifts := map[string]func(){
		"another client":         func() { m.put(nfs.Export{Path: v.Path + "/data", Client: client2, FSID: v.UUID}) },
		"everybody":              func() { m.put(nfs.Export{Path: v.Path + "/data", Spec: "*"}) },
		"the parent directory":   func() { m.put(nfs.Export{Path: v.Path, Client: client1}) },
		"a snapshot":             func() { m.put(nfs.Export{Path: r.ten.snapshotDir.Path("bystander") + "/data", Client: client1}) },
		"a volume that is gone":  func() { m.put(nfs.Export{Path: r.ten.volumeDir.Path("gone") + "/data", Client: client1}) },
		"an unknown tenant":      func() { m.put(nfs.Export{Path: r.pool.Dir + "/x/y/data", Client: client1}) },
		"the base":               func() { m.put(nfs.Export{Path: r.pool.Dir, Client: client1}) },
		"missing":                func() { m.drop(exportOf(v, client1)) },
		"all are missing":        func() { m.mu.Lock(); clear(m.exports); m.mu.Unlock() },
		"other options":          func() { e := exportOf(v, client1); e.Options.ReadOnly = true; m.put(e) },
		"another file system ID": func() { e := exportOf(v, client1); e.FSID[0]++; m.put(e) },
	}
	for name, drift := range drifts {
		drift()
		assert.NilError(t, r.store.reconcileExports(t.Context()), name)
		assert.DeepEqual(t, r.view(), want)
		assertRules(t, r.store)
	}
	// In the background, when the engine reports a change.
	drifts["everybody"]()
	m.changed <- struct{}{}
	testpool.Eventually(t, func() poll.Result { return testpool.When(len(m.list()) == 2, "exports are %v", m.list()) })
	assertRules(t, r.store)
}

func TestFailedUnexportKeepsTheReference(t *testing.T) {
	t.Parallel()
	r := newTestEnv(t, smallPool)
	withExport(t, r.ten)
	want := r.view()
	r.exporter.setFail(fmt.Errorf("%w: gone", nfs.ErrUnavailable))
	for range 2 {
		assertCode(t, r.ten.Unexport(t.Context(), "v", client1, nil), agentapi.Unavailable)
		assertCode(t, r.ten.DeleteVolume(t.Context(), "v"), agentapi.Busy)
	}
	assert.DeepEqual(t, r.view(), want)
	// Changes that need no NFS server still work.
	_, err := r.ten.UpdateVolume(t.Context(), "v", VolumeUpdate{SizeBytes: ptr(128 * mib)})
	assert.NilError(t, err)
	r.store.maintenance.reconcile(t.Context(), r.store)

	r.exporter.setFail(nil)
	assert.NilError(t, r.ten.Unexport(t.Context(), "v", client1, nil))
	assert.Equal(t, len(r.exporter.list()), 1) // the bystander's
	assert.NilError(t, r.ten.DeleteVolume(t.Context(), "v"))
	assertRules(t, r.store)
}

func TestFileSystemIDsDoNotCollide(t *testing.T) {
	t.Parallel()
	ten, _ := openTenant(t)
	seen := map[[16]byte]string{}
	export := func(name string) {
		t.Helper()
		v, err := ten.GetVolume(t.Context(), name)
		assert.NilError(t, err)
		id := exportOf(v, client1).FSID
		assert.Equal(t, seen[id], "", "volume %s has the ID of", name)
		assert.Assert(t, id != [16]byte{})
		seen[id] = name
	}
	withSnapshot(t, ten)
	export("v")
	for i := range 20 {
		_, _, err := ten.Clone(t.Context(), CloneSpec{Name: "c", Snapshot: "s"})
		assert.NilError(t, err)
		export("c")
		mustCreate(t, ten, fmt.Sprint("v", i))
		export(fmt.Sprint("v", i))
		assert.NilError(t, ten.DeleteVolume(t.Context(), "c")) // the next volume of the same name has another one
	}
}

func TestTenantsDoNotMeet(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	s := open(t, Config{BasePath: pool.Dir, Tenants: []string{tenant, "other"}}, newMemoryExporter())
	ten := mustTenant(t, s)
	other, err := s.Tenant("other")
	assert.NilError(t, err)
	withSnapshot(t, ten)
	mine, err := ten.Export(t.Context(), "v", ExportSpec{Client: client1})
	assert.NilError(t, err)

	_, err = other.GetVolume(t.Context(), "v")
	assertCode(t, err, agentapi.NotFound)
	_, _, err = other.Clone(t.Context(), CloneSpec{Name: "c", Snapshot: "s"})
	assertCode(t, err, agentapi.NotFound)
	assert.NilError(t, other.Unexport(t.Context(), "v", client1, nil))
	assert.NilError(t, other.DeleteVolume(t.Context(), "v"))
	mustCreate(t, other, "v")
	assert.Equal(t, contents(t, ten.volumeDir.Path("v")), "of v")
	assertCode(t, ten.DeleteVolume(t.Context(), "v"), agentapi.Busy)

	report, err := s.ReportByToken(t.Context(), "v", mine.UsageToken)
	assert.NilError(t, err)
	assert.Equal(t, report.QuotaBytes, 64*mib)
	theirs, err := other.Export(t.Context(), "v", ExportSpec{Client: client1})
	assert.NilError(t, err)
	_, signature, _ := strings.Cut(theirs.UsageToken, ".")
	subject, _, _ := strings.Cut(mine.UsageToken, ".")
	for _, token := range []string{"", ".", "x", "x.y", subject, subject + ".", subject + "." + signature, mine.UsageToken + "x", "." + signature} {
		_, err = s.ReportByToken(t.Context(), "v", token)
		assertCode(t, err, agentapi.Forbidden)
	}
	_, err = s.ReportByToken(t.Context(), "bystander", mine.UsageToken)
	assertCode(t, err, agentapi.Forbidden)
	assertRules(t, s)
}

func TestTenantThatIsNoLongerConfigured(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	s := reopened(t, Config{BasePath: pool.Dir, Tenants: []string{"old"}}, newMemoryExporter())
	old, err := s.Tenant("old")
	assert.NilError(t, err)
	withExport(t, old)
	assert.NilError(t, s.Close(t.Context()))

	exporter := newMemoryExporter()
	s = reopened(t, Config{BasePath: pool.Dir, Tenants: []string{tenant}}, exporter)
	t.Cleanup(func() { assert.NilError(t, s.Close(context.Background())) })
	_, err = s.Tenant("old")
	assertCode(t, err, agentapi.NotFound)
	assert.Equal(t, len(exporter.list()), 1)
	assert.NilError(t, s.reconcileExports(t.Context()))
	assert.Equal(t, len(exporter.list()), 1)
	assertRules(t, s)
}

func TestAttachKeepsLabels(t *testing.T) {
	t.Parallel()
	ten, _ := openTenant(t)
	withTwoReferences(t, ten)
	v, err := ten.GetVolume(t.Context(), "v")
	assert.NilError(t, err)
	assert.DeepEqual(t, v.Labels.Map(), map[string]string{"created-by": "me"})
	assert.Equal(t, len(v.Refs), 2)
	assert.DeepEqual(t, v.Refs[0].Labels.Map(), map[string]string{"pod": "1"})
	assert.DeepEqual(t, v.Refs[1].Labels.Map(), map[string]string{"pod": "2"})
	assert.Assert(t, !v.LastAttachAt.IsZero())
}

// The catalogue shares no values with the arguments and results of calls.
func TestValuesAreCopies(t *testing.T) {
	t.Parallel()
	ten, _ := openTenant(t)
	labels := map[string]string{"a": "b"}
	_, _, err := ten.CreateVolume(t.Context(), VolumeSpec{Name: "v", SizeBytes: 16 * mib, Labels: labels})
	assert.NilError(t, err)
	_, _, err = ten.CreateSnapshot(t.Context(), SnapshotSpec{Name: "s", Volume: "v", Labels: labels})
	assert.NilError(t, err)
	_, _, err = ten.Clone(t.Context(), CloneSpec{Name: "c", Volume: "v", Labels: labels})
	assert.NilError(t, err)
	_, err = ten.Export(t.Context(), "v", ExportSpec{Client: client1, Labels: labels})
	assert.NilError(t, err)
	_, err = ten.UpdateVolume(t.Context(), "c", VolumeUpdate{Labels: labels})
	assert.NilError(t, err)
	labels["a"] = "changed"
	assertRules(t, ten.store)
}
