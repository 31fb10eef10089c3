package storage

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp/cmpopts"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

const (
	mib    = int64(1) << 20
	tenant = "team"
)

var compareAddr = cmpopts.EquateComparable(netip.Addr{})

// memoryExporter is an NFS server in a map. The real engines pass the suite of nfstest. Here only
// the calls matter.
type memoryExporter struct {
	mu      sync.Mutex
	exports map[nfs.Key]nfs.Export
	changed chan struct{}
	roots   []nfs.Export // of other programs
	fail    error        // of Export and Unexport
	bad     error        // of Start, of every export
}

func newMemoryExporter() *memoryExporter {
	return &memoryExporter{exports: map[nfs.Key]nfs.Export{}, changed: make(chan struct{}, 1)}
}

func (m *memoryExporter) Start(_ context.Context, initial []nfs.Export) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.exports)
	var failures []error
	for _, e := range initial {
		if m.bad != nil {
			failures = append(failures, &nfs.ExportError{Export: e, Err: m.bad})
			continue
		}
		m.exports[e.Key()] = e
	}
	return errors.Join(failures...)
}

func (m *memoryExporter) Export(_ context.Context, exports []nfs.Export) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	for _, e := range exports {
		m.exports[e.Key()] = e
	}
	return nil
}

func (m *memoryExporter) Unexport(_ context.Context, exports []nfs.Export) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	for _, e := range exports {
		delete(m.exports, e.Key())
	}
	return nil
}

func (m *memoryExporter) List(context.Context) ([]nfs.Export, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := []nfs.Export{}
	for _, e := range m.exports {
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b nfs.Export) int {
		return cmp.Or(a.Client.Compare(b.Client), strings.Compare(a.Path, b.Path))
	})
	return out, nil
}

func (m *memoryExporter) Roots(context.Context) ([]nfs.Export, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.roots, nil
}

func (m *memoryExporter) Changed() <-chan struct{} { return m.changed }

// setFail makes Export and Unexport fail with err. nil makes them work again.
func (m *memoryExporter) setFail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

func newPool(t *testing.T) *testpool.Pool {
	t.Helper()
	return testpool.New(t, testpool.Options{})
}

// open opens a store and closes it at the end of the test.
func open(t *testing.T, config Config, exporter Exporter) *Store {
	t.Helper()
	if config.Tenants == nil {
		config.Tenants = []string{tenant}
	}
	s, err := Open(t.Context(), initialised(t, config), exporter)
	assert.NilError(t, err)
	t.Cleanup(func() { assert.NilError(t, s.Close(context.Background())) })
	return s
}

func openTenant(t *testing.T) (*Tenant, *testpool.Pool) {
	t.Helper()
	pool := newPool(t)
	s := open(t, Config{BasePath: pool.Dir}, newMemoryExporter())
	return mustTenant(t, s), pool
}

func mustTenant(t *testing.T, s *Store) *Tenant {
	t.Helper()
	ten, err := s.Tenant(tenant)
	assert.NilError(t, err)
	return ten
}

func mustCreate(t *testing.T, ten *Tenant, name string) Volume {
	t.Helper()
	v, created, err := ten.CreateVolume(t.Context(), VolumeSpec{Name: name, SizeBytes: 64 * mib})
	assert.NilError(t, err)
	assert.Assert(t, created)
	return v
}

func assertCode(t *testing.T, err error, code agentapi.Code) {
	t.Helper()
	assert.Assert(t, err != nil, "no error, want %s", code)
	assert.Equal(t, agentapi.CodeOf(err), code, "%v", err)
}

func TestLifecycle(t *testing.T) {
	ten, _ := openTenant(t)
	ctx := t.Context()
	v := mustCreate(t, ten, "v")
	assert.NilError(t, os.WriteFile(filepath.Join(v.Path, "data", "file"), []byte("hello"), 0o600))

	snap, created, err := ten.CreateSnapshot(ctx, SnapshotSpec{Name: "s", Volume: "v"})
	assert.NilError(t, err)
	assert.Assert(t, created)
	content, err := os.ReadFile(filepath.Join(snap.Path, "data", "file"))
	assert.NilError(t, err)
	assert.Equal(t, string(content), "hello")

	clone, created, err := ten.Clone(ctx, CloneSpec{Name: "c", Snapshot: "s", SizeBytes: 128 * mib})
	assert.NilError(t, err)
	assert.Assert(t, created)
	assert.Equal(t, clone.QuotaBytes, 128*mib)
	assert.NilError(t, os.WriteFile(filepath.Join(clone.Path, "data", "other"), []byte("x"), 0o600))

	client := netip.MustParseAddr("10.0.0.1")
	grant, err := ten.Export(ctx, "c", ExportSpec{Client: client})
	assert.NilError(t, err)
	assert.Equal(t, grant.MountPath, clone.Path+"/data")
	assertCode(t, ten.DeleteVolume(ctx, "c"), agentapi.Busy)
	report, err := ten.store.ReportByToken(ctx, "c", grant.UsageToken)
	assert.NilError(t, err)
	assert.Equal(t, report.QuotaBytes, 128*mib)
	assert.NilError(t, ten.Unexport(ctx, "c", client, nil))
	_, err = ten.store.ReportByToken(ctx, "c", grant.UsageToken)
	assertCode(t, err, agentapi.Forbidden)

	for range 2 {
		assert.NilError(t, ten.DeleteVolume(ctx, "v"))
		assert.NilError(t, ten.DeleteSnapshot(ctx, "s"))
		assert.NilError(t, ten.DeleteVolume(ctx, "c"))
	}
	assertEmpty(t, ten)
}

// assertEmpty verifies that nothing of a tenant is left on disk.
func assertEmpty(t *testing.T, ten *Tenant) {
	t.Helper()
	assert.DeepEqual(t, entries(t, ten.volumeDir.Path("")), []string{snapshotsDir})
	assert.DeepEqual(t, entries(t, ten.snapshotDir.Path("")), []string{})
}

func TestReopenFindsEverything(t *testing.T) {
	pool := newPool(t)
	ctx := t.Context()
	exporter := newMemoryExporter()
	s, err := Open(ctx, initialised(t, Config{BasePath: pool.Dir, Tenants: []string{tenant}}), exporter)
	assert.NilError(t, err)
	ten := mustTenant(t, s)
	mustCreate(t, ten, "v")
	_, _, err = ten.CreateSnapshot(ctx, SnapshotSpec{Name: "s", Volume: "v", Labels: map[string]string{"a": "b"}})
	assert.NilError(t, err)
	_, _, err = ten.Clone(ctx, CloneSpec{Name: "c", Volume: "v"})
	assert.NilError(t, err)
	_, err = ten.Export(ctx, "c", ExportSpec{Client: netip.MustParseAddr("fd00::1"), ReadOnly: true, Labels: map[string]string{"node": "n1"}})
	assert.NilError(t, err)
	volumes, snapshots := ten.volumes.all(), ten.snapshots.all()
	exports, _ := exporter.List(ctx)
	assert.NilError(t, s.Close(ctx))

	again := newMemoryExporter()
	ten = mustTenant(t, open(t, Config{BasePath: pool.Dir}, again))
	for i := range snapshots {
		assert.Assert(t, snapshots[i].Quarantine == "")
	}
	assert.DeepEqual(t, ten.volumes.all(), volumes, compareAddr)
	assert.DeepEqual(t, ten.snapshots.all(), snapshots)
	after, _ := again.List(ctx)
	assert.DeepEqual(t, after, exports, compareAddr)
	assert.Equal(t, len(after), 1)
}
