package api

import (
	"context"
	"net/netip"
	"testing"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
)

// fakeStore calls the functions that a test sets. A call of a function that is not set fails the
// test. So tests notice if a refused request reaches the domain.
type fakeStore struct {
	t             *testing.T
	tenants       map[string]*fakeTenant
	reportByToken func(volume, usageToken string) (storage.Report, error)
	stats         func() (storage.Stats, error)
	conditions    []storage.Condition
	ready         error
}

func (f *fakeStore) Tenant(name string) (Tenant, error) {
	if t := f.tenants[name]; t != nil {
		return t, nil
	}
	f.t.Errorf("unexpected tenant %q", name)
	return &fakeTenant{t: f.t}, nil
}

func (f *fakeStore) ReportByToken(_ context.Context, volume, usageToken string) (storage.Report, error) {
	if f.reportByToken == nil {
		f.t.Errorf("unexpected ReportByToken(%q)", volume)
		return storage.Report{}, nil
	}
	return f.reportByToken(volume, usageToken)
}

func (f *fakeStore) Stats(context.Context) (storage.Stats, error) {
	if f.stats == nil {
		f.t.Error("unexpected Stats")
		return storage.Stats{}, nil
	}
	return f.stats()
}

func (f *fakeStore) Conditions() []storage.Condition { return f.conditions }
func (f *fakeStore) Ready() error                    { return f.ready }

type fakeTenant struct {
	t              *testing.T
	createVolume   func(ctx context.Context, spec storage.VolumeSpec) (storage.Volume, bool, error)
	getVolume      func(name string) (storage.Volume, error)
	listVolumes    func(q storage.Query) (storage.Page[storage.Volume], error)
	updateVolume   func(name string, u storage.VolumeUpdate) (storage.Volume, error)
	deleteVolume   func(name string) error
	clone          func(spec storage.CloneSpec) (storage.Volume, bool, error)
	createSnapshot func(spec storage.SnapshotSpec) (storage.Snapshot, bool, error)
	getSnapshot    func(name string) (storage.Snapshot, error)
	listSnapshots  func(q storage.Query) (storage.Page[storage.Snapshot], error)
	deleteSnapshot func(name string) error
	export         func(volume string, spec storage.ExportSpec) (storage.ExportGrant, error)
	unexport       func(volume string, client netip.Addr, labels map[string]string) error
	listExports    func(q storage.Query) (storage.Page[storage.ExportEntry], error)
	usage          func(ids []uint64) (map[uint64]storage.Usage, error)
	report         func(volume string) (storage.Report, error)
}

// given reports whether a test set the function for a call.
func (f *fakeTenant) given(call string, isNil bool) bool {
	if isNil {
		f.t.Errorf("%s reached the domain", call)
	}
	return !isNil
}

func (f *fakeTenant) CreateVolume(ctx context.Context, spec storage.VolumeSpec) (v storage.Volume, _ bool, _ error) {
	if f.given("CreateVolume", f.createVolume == nil) {
		return f.createVolume(ctx, spec)
	}
	return v, false, nil
}

func (f *fakeTenant) GetVolume(_ context.Context, name string) (v storage.Volume, _ error) {
	if f.given("GetVolume", f.getVolume == nil) {
		return f.getVolume(name)
	}
	return v, nil
}

func (f *fakeTenant) ListVolumes(_ context.Context, q storage.Query) (p storage.Page[storage.Volume], _ error) {
	if f.given("ListVolumes", f.listVolumes == nil) {
		return f.listVolumes(q)
	}
	return p, nil
}

func (f *fakeTenant) UpdateVolume(_ context.Context, name string, u storage.VolumeUpdate) (v storage.Volume, _ error) {
	if f.given("UpdateVolume", f.updateVolume == nil) {
		return f.updateVolume(name, u)
	}
	return v, nil
}

func (f *fakeTenant) DeleteVolume(_ context.Context, name string) error {
	if f.given("DeleteVolume", f.deleteVolume == nil) {
		return f.deleteVolume(name)
	}
	return nil
}

func (f *fakeTenant) Clone(_ context.Context, spec storage.CloneSpec) (v storage.Volume, _ bool, _ error) {
	if f.given("Clone", f.clone == nil) {
		return f.clone(spec)
	}
	return v, false, nil
}

func (f *fakeTenant) CreateSnapshot(_ context.Context, spec storage.SnapshotSpec) (s storage.Snapshot, _ bool, _ error) {
	if f.given("CreateSnapshot", f.createSnapshot == nil) {
		return f.createSnapshot(spec)
	}
	return s, false, nil
}

func (f *fakeTenant) GetSnapshot(_ context.Context, name string) (s storage.Snapshot, _ error) {
	if f.given("GetSnapshot", f.getSnapshot == nil) {
		return f.getSnapshot(name)
	}
	return s, nil
}

func (f *fakeTenant) ListSnapshots(_ context.Context, q storage.Query) (p storage.Page[storage.Snapshot], _ error) {
	if f.given("ListSnapshots", f.listSnapshots == nil) {
		return f.listSnapshots(q)
	}
	return p, nil
}

func (f *fakeTenant) DeleteSnapshot(_ context.Context, name string) error {
	if f.given("DeleteSnapshot", f.deleteSnapshot == nil) {
		return f.deleteSnapshot(name)
	}
	return nil
}

func (f *fakeTenant) Export(_ context.Context, volume string, spec storage.ExportSpec) (g storage.ExportGrant, _ error) {
	if f.given("Export", f.export == nil) {
		return f.export(volume, spec)
	}
	return g, nil
}

func (f *fakeTenant) Unexport(_ context.Context, volume string, client netip.Addr, labels map[string]string) error {
	if f.given("Unexport", f.unexport == nil) {
		return f.unexport(volume, client, labels)
	}
	return nil
}

func (f *fakeTenant) ListExports(_ context.Context, q storage.Query) (p storage.Page[storage.ExportEntry], _ error) {
	if f.given("ListExports", f.listExports == nil) {
		return f.listExports(q)
	}
	return p, nil
}

// Usage returns zeros, unless a test sets it.
func (f *fakeTenant) Usage(_ context.Context, ids ...uint64) (map[uint64]storage.Usage, error) {
	if f.usage == nil {
		return map[uint64]storage.Usage{}, nil
	}
	return f.usage(ids)
}

// Health returns the health of a pool without problems.
func (f *fakeTenant) Health(context.Context) storage.Health { return storage.Health{} }

func (f *fakeTenant) Report(_ context.Context, volume string) (r storage.Report, _ error) {
	if f.given("Report", f.report == nil) {
		return f.report(volume)
	}
	return r, nil
}
