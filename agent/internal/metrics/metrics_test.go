package metrics

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/pool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type fakeStore struct {
	tenants    []Tenant
	stats      storage.Stats
	statsErr   error
	conditions []storage.Condition
	ready      error
}

func (f *fakeStore) Tenants() []Tenant                            { return f.tenants }
func (f *fakeStore) Stats(context.Context) (storage.Stats, error) { return f.stats, f.statsErr }
func (f *fakeStore) Conditions() []storage.Condition              { return f.conditions }
func (f *fakeStore) Ready() error                                 { return f.ready }

type fakeTenant struct {
	name      string
	volumes   []storage.Volume
	snapshots []storage.Snapshot
	usage     map[uint64]storage.Usage
	err       error
}

func (f *fakeTenant) Name() string { return f.name }

func (f *fakeTenant) ListVolumes(context.Context, storage.Query) (storage.Page[storage.Volume], error) {
	return storage.Page[storage.Volume]{Items: f.volumes, Total: len(f.volumes)}, f.err
}

func (f *fakeTenant) ListSnapshots(context.Context, storage.Query) (storage.Page[storage.Snapshot], error) {
	return storage.Page[storage.Snapshot]{Items: f.snapshots, Total: len(f.snapshots)}, f.err
}

func (f *fakeTenant) Usage(context.Context, ...uint64) (map[uint64]storage.Usage, error) {
	return f.usage, f.err
}

func register(store Store) *prometheus.Registry {
	registry := prometheus.NewPedanticRegistry()
	CollectStore(registry, store, slog.New(slog.DiscardHandler))
	return registry
}

func volume(name string, id uint64, refs int) storage.Volume {
	return storage.Volume{Name: name, ID: id, Properties: storage.Properties{SizeBytes: 100, QuotaBytes: 90}, Refs: make([]storage.Ref, refs)}
}

func expect(t *testing.T, registry *prometheus.Registry, text string, names ...string) {
	t.Helper()
	for i := range names {
		names[i] = namespace + "_" + names[i]
	}
	assert.NilError(t, testutil.GatherAndCompare(registry, strings.NewReader(text), names...))
}

func TestTenants(t *testing.T) {
	store := &fakeStore{tenants: []Tenant{
		&fakeTenant{
			name: "a", volumes: []storage.Volume{volume("v1", 300, 2), volume("v2", 301, 1)},
			snapshots: []storage.Snapshot{{Quarantine: "broken"}}, usage: map[uint64]storage.Usage{300: {UsedBytes: 7}},
		},
		&fakeTenant{name: "b"},
	}}
	expect(t, register(store), `
# HELP btrfs_nfs_agent_exports References. Each of them lets one client mount a volume.
# TYPE btrfs_nfs_agent_exports gauge
btrfs_nfs_agent_exports{tenant="a"} 3
btrfs_nfs_agent_exports{tenant="b"} 0
# HELP btrfs_nfs_agent_quarantined Quarantined volumes and snapshots. An administrator has to repair or remove them.
# TYPE btrfs_nfs_agent_quarantined gauge
btrfs_nfs_agent_quarantined{tenant="a"} 1
btrfs_nfs_agent_quarantined{tenant="b"} 0
# HELP btrfs_nfs_agent_snapshots Snapshots.
# TYPE btrfs_nfs_agent_snapshots gauge
btrfs_nfs_agent_snapshots{tenant="a"} 1
btrfs_nfs_agent_snapshots{tenant="b"} 0
# HELP btrfs_nfs_agent_volume_exports References that let clients mount the volume.
# TYPE btrfs_nfs_agent_volume_exports gauge
btrfs_nfs_agent_volume_exports{tenant="a",volume="v1"} 2
btrfs_nfs_agent_volume_exports{tenant="a",volume="v2"} 1
# HELP btrfs_nfs_agent_volume_quota_bytes Enforced limit of the volume.
# TYPE btrfs_nfs_agent_volume_quota_bytes gauge
btrfs_nfs_agent_volume_quota_bytes{tenant="a",volume="v1"} 90
btrfs_nfs_agent_volume_quota_bytes{tenant="a",volume="v2"} 90
# HELP btrfs_nfs_agent_volume_size_bytes Size of the volume.
# TYPE btrfs_nfs_agent_volume_size_bytes gauge
btrfs_nfs_agent_volume_size_bytes{tenant="a",volume="v1"} 100
btrfs_nfs_agent_volume_size_bytes{tenant="a",volume="v2"} 100
# HELP btrfs_nfs_agent_volume_used_bytes Data that the volume references, as of the last commit. Missing if quotas are off.
# TYPE btrfs_nfs_agent_volume_used_bytes gauge
btrfs_nfs_agent_volume_used_bytes{tenant="a",volume="v1"} 7
# HELP btrfs_nfs_agent_volumes Volumes.
# TYPE btrfs_nfs_agent_volumes gauge
btrfs_nfs_agent_volumes{tenant="a"} 2
btrfs_nfs_agent_volumes{tenant="b"} 0
`, "exports", "quarantined", "snapshots", "volume_exports", "volume_quota_bytes", "volume_size_bytes", "volume_used_bytes", "volumes")
}

// Fault 17 of the existing project: metrics of deleted volumes never disappeared.
func TestDeletedVolumesAreGone(t *testing.T) {
	tenant := &fakeTenant{name: "a", volumes: []storage.Volume{volume("v1", 300, 1)}, usage: map[uint64]storage.Usage{300: {}}}
	registry := register(&fakeStore{tenants: []Tenant{tenant}})
	assert.Equal(t, count(t, registry, `volume="v1"`), 5)
	tenant.volumes = nil
	assert.Equal(t, count(t, registry, `volume="v1"`), 0)
}

func TestVolumesOverTheirLimit(t *testing.T) {
	const mib = 1 << 20
	sized := func(name string, id uint64, quota int64) storage.Volume {
		return storage.Volume{Name: name, ID: id, Properties: storage.Properties{SizeBytes: 64 * mib, QuotaBytes: quota}}
	}
	store := &fakeStore{tenants: []Tenant{&fakeTenant{
		name:    "a",
		volumes: []storage.Volume{sized("lifted", 300, 0), sized("over", 301, 64*mib), sized("within", 302, 64*mib), sized("uncounted", 303, 64*mib)},
		usage:   map[uint64]storage.Usage{300: {UsedBytes: 300 * mib}, 301: {UsedBytes: 300 * mib}, 302: {UsedBytes: 64 * mib}},
	}}}
	expect(t, register(store), `
# HELP btrfs_nfs_agent_volume_over_limit_bytes Bytes of the volume beyond its limit, as of the last commit. Missing if quotas are off.
# TYPE btrfs_nfs_agent_volume_over_limit_bytes gauge
btrfs_nfs_agent_volume_over_limit_bytes{tenant="a",volume="lifted"} 0
btrfs_nfs_agent_volume_over_limit_bytes{tenant="a",volume="over"} 2.47463936e+08
btrfs_nfs_agent_volume_over_limit_bytes{tenant="a",volume="within"} 0
`, "volume_over_limit_bytes")
}

func TestLimitsOfTenants(t *testing.T) {
	store := &fakeStore{stats: storage.Stats{Tenants: map[string]storage.TenantStats{
		"a": {Limits: storage.TenantLimits{Volumes: 3, SizeBytes: 500}, Volumes: 2, SizeBytes: 200},
		"b": {Volumes: 1, SizeBytes: 100},
	}}}
	expect(t, register(store), `
# HELP btrfs_nfs_agent_tenant_max_size_bytes Limit of the total size of the tenant's volumes. Missing if there is none.
# TYPE btrfs_nfs_agent_tenant_max_size_bytes gauge
btrfs_nfs_agent_tenant_max_size_bytes{tenant="a"} 500
# HELP btrfs_nfs_agent_tenant_max_volumes Limit of the number of the tenant's volumes. Missing if there is none.
# TYPE btrfs_nfs_agent_tenant_max_volumes gauge
btrfs_nfs_agent_tenant_max_volumes{tenant="a"} 3
# HELP btrfs_nfs_agent_tenant_size_bytes Total size of the tenant's volumes, as its limit counts it.
# TYPE btrfs_nfs_agent_tenant_size_bytes gauge
btrfs_nfs_agent_tenant_size_bytes{tenant="a"} 200
btrfs_nfs_agent_tenant_size_bytes{tenant="b"} 100
`, "tenant_max_size_bytes", "tenant_max_volumes", "tenant_size_bytes")
}

func count(t *testing.T, registry *prometheus.Registry, part string) int {
	t.Helper()
	return strings.Count(scrapeText(t, registry), part)
}

func TestPool(t *testing.T) {
	store := &fakeStore{
		conditions: []storage.Condition{{Reason: "DeviceMissing"}, {Reason: "DeviceMissing"}, {Reason: "PoolNearlyFull"}},
		stats: storage.Stats{Stats: pool.Stats{
			Space: btrfs.Space{TotalBytes: 10, FreeBytes: 4, UsedBytes: 6, DataRatio: 2},
			Devices: []btrfs.Device{
				{ID: 1, Path: "/dev/a", SizeBytes: 20, Errors: btrfs.DeviceErrors{Corruption: 3}, IO: btrfs.DeviceIO{Known: true, ReadBytes: 5, IOTimeMs: 1500}},
				{ID: 2, Missing: true},
			},
		}},
	}
	text := scrapeText(t, register(store))
	for _, line := range []string{
		`btrfs_nfs_agent_condition{reason="DeviceMissing"} 1`, `btrfs_nfs_agent_condition{reason="PoolNearlyFull"} 1`,
		`btrfs_nfs_agent_pool_free_bytes 4`, `btrfs_nfs_agent_pool_total_bytes 10`, `btrfs_nfs_agent_pool_data_ratio 2`,
		`btrfs_nfs_agent_device_errors_total{device="/dev/a",devid="1",kind="corruption"} 3`,
		`btrfs_nfs_agent_device_missing{device="",devid="2"} 1`, `btrfs_nfs_agent_device_missing{device="/dev/a",devid="1"} 0`,
		`btrfs_nfs_agent_device_io_bytes_total{device="/dev/a",devid="1",direction="read"} 5`,
		`btrfs_nfs_agent_device_busy_seconds_total{device="/dev/a",devid="1"} 1.5`,
		`btrfs_nfs_agent_ready 1`, `btrfs_nfs_agent_collector_success{part="pool"} 1`,
	} {
		assert.Check(t, strings.Contains(text, line+"\n"), "%s is not in\n%s", line, text)
	}
	assert.Check(t, !strings.Contains(text, `device_io_bytes_total{device=""`), "a missing device has I/O")
}

// If one part cannot be read, the others are still collected.
func TestPartsFailAlone(t *testing.T) {
	store := &fakeStore{
		statsErr: errors.New("no pool"), ready: errors.New("no pool"),
		tenants: []Tenant{&fakeTenant{name: "a", err: errors.New("broken")}, &fakeTenant{name: "b", volumes: []storage.Volume{volume("v1", 300, 0)}}},
	}
	text := scrapeText(t, register(store))
	for _, line := range []string{
		`btrfs_nfs_agent_collector_success{part="pool"} 0`, `btrfs_nfs_agent_collector_success{part="volumes"} 0`,
		`btrfs_nfs_agent_ready 0`, `btrfs_nfs_agent_volumes{tenant="b"} 1`,
	} {
		assert.Check(t, strings.Contains(text, line+"\n"), "%s is not in\n%s", line, text)
	}
}

func TestRequests(t *testing.T) {
	registry := NewRegistry("v1", "abc", "2026-01-02T03:04:05Z")
	requests := NewRequests(registry)
	requests.Observe("/v1/volumes/:name", "GET", 200, 20*time.Millisecond)
	requests.Observe("/v1/volumes/:name", "GET", 404, time.Millisecond)
	text := scrapeText(t, registry)
	for _, line := range []string{
		`btrfs_nfs_agent_build_info{commit="abc",date="2026-01-02T03:04:05Z",version="v1"} 1`,
		`btrfs_nfs_agent_http_requests_total{code="200",method="GET",route="/v1/volumes/:name"} 1`,
		`btrfs_nfs_agent_http_requests_total{code="404",method="GET",route="/v1/volumes/:name"} 1`,
		`btrfs_nfs_agent_http_request_duration_seconds_bucket{method="GET",route="/v1/volumes/:name",le="0.025"} 2`,
	} {
		assert.Check(t, strings.Contains(text, line+"\n"), "%s is not in\n%s", line, text)
	}
}

func TestNamesFollowTheConventions(t *testing.T) {
	registry := register(&fakeStore{tenants: []Tenant{&fakeTenant{name: "a", volumes: []storage.Volume{volume("v", 300, 0)}}}, stats: storage.Stats{Stats: pool.Stats{Devices: make([]btrfs.Device, 1)}}})
	NewRequests(registry)
	problems, err := testutil.GatherAndLint(registry)
	assert.NilError(t, err)
	assert.Equal(t, len(problems), 0, "%v", problems)
}

// scrapeText scrapes over HTTP, as Prometheus does.
func scrapeText(t *testing.T, registry *prometheus.Registry) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	assert.NilError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, listener, registry) }()
	defer func() {
		cancel()
		assert.Check(t, <-served)
	}()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	response, err := client.Get("http://" + listener.Addr().String() + "/metrics")
	assert.NilError(t, err)
	defer response.Body.Close()
	assert.Equal(t, response.StatusCode, 200)
	text, err := io.ReadAll(response.Body)
	assert.NilError(t, err)
	return string(text)
}
