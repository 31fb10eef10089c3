package api

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/labels"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/pool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// Existing clients of the v1 API rely on these texts. A change here breaks them.

var (
	noon       = time.Date(2026, 1, 2, 12, 0, 0, 0, time.FixedZone("CET", 3600))
	properties = storage.Properties{SizeBytes: 1 << 30, QuotaBytes: 1 << 30, Compression: "zstd:3", RootSquash: true, UID: 1000, GID: 2000, Mode: 0o2770}
	aClient    = netip.MustParseAddr("10.0.0.7")
)

func fullVolume() storage.Volume {
	set := labels.Of(map[string]string{"created-by": "csi", "app": "db"})
	ref := storage.Ref{Client: aClient, Labels: labels.Of(map[string]string{"pv": "x"}), CreatedAt: noon}
	return storage.Volume{
		Name: "v1", ID: 257, Path: "/pool/a/v1", Properties: properties, Labels: set, Refs: []storage.Ref{ref},
		CreatedAt: noon, UpdatedAt: noon.Add(time.Minute), LastAttachAt: noon.Add(time.Hour),
	}
}

func fullSnapshot() storage.Snapshot {
	return storage.Snapshot{
		Name: "s1", ID: 258, Path: "/pool/a/snapshots/s1", Volume: "v1", Properties: properties,
		Labels: labels.Of(map[string]string{"created-by": "csi"}), CreatedAt: noon, UpdatedAt: noon,
	}
}

func someUsage(ids []uint64) (map[uint64]storage.Usage, error) {
	out := map[uint64]storage.Usage{}
	for _, id := range ids {
		out[id] = storage.Usage{UsedBytes: int64(id) * 1000, ExclusiveBytes: int64(id)}
	}
	return out, nil
}

const volumeDetailJSON = `{"name":"v1","created_by":"csi","path":"/pool/a/v1","size_bytes":1073741824,"quota_bytes":1073741824,
	"used_bytes":257000,"nocow":false,"compression":"zstd:3","root_squash":true,"uid":1000,"gid":2000,"mode":"2770",
	"labels":{"created-by":"csi","app":"db"},
	"clients":[{"name":"v1","created_by":"csi","client":"10.0.0.7","labels":{"pv":"x"},"created_at":"2026-01-02T11:00:00Z"}],
	"health":{"status":"ok"},
	"created_at":"2026-01-02T11:00:00Z","updated_at":"2026-01-02T11:01:00Z","last_attach_at":"2026-01-02T12:00:00Z"}`

func TestVolumeOnTheWire(t *testing.T) {
	h := start(t)
	h.a().usage = someUsage
	h.a().getVolume = func(string) (storage.Volume, error) { return fullVolume(), nil }
	sameJSON(t, h.do("GET", "/v1/volumes/v1", ""), volumeDetailJSON)

	h.a().listVolumes = func(storage.Query) (storage.Page[storage.Volume], error) {
		return storage.Page[storage.Volume]{Items: []storage.Volume{fullVolume()}, Total: 7, Next: "c1"}, nil
	}
	sameJSON(t, h.do("GET", "/v1/volumes?detail=true", ""), `{"volumes":[`+volumeDetailJSON+`],"total":7,"next":"c1"}`)
	sameJSON(t, h.do("GET", "/v1/volumes", ""), `{"volumes":[
		{"name":"v1","created_by":"csi","size_bytes":1073741824,"used_bytes":257000,"clients":1,"created_at":"2026-01-02T11:00:00Z"}
	],"total":7,"next":"c1"}`)
}

func TestBareVolumeOnTheWire(t *testing.T) {
	h := start(t)
	h.a().getVolume = func(string) (storage.Volume, error) {
		return storage.Volume{Name: "v1", Quarantine: "metadata.json is empty", SourceVolume: "v0", Properties: storage.Properties{Mode: 0o5}}, nil
	}
	sameJSON(t, h.do("GET", "/v1/volumes/v1", ""), `{"name":"v1","created_by":"","path":"","size_bytes":0,"quota_bytes":0,"used_bytes":0,
		"nocow":false,"compression":"","uid":0,"gid":0,"mode":"0005","labels":{},"clients":[],"source_volume":"v0",
		"health":{"status":"degraded","conditions":[{"reason":"Quarantined","message":"metadata.json is empty"}]},
		"created_at":"0001-01-01T00:00:00Z","updated_at":"0001-01-01T00:00:00Z"}`)
}

func TestSnapshotOnTheWire(t *testing.T) {
	h := start(t)
	const detail = `{"name":"s1","created_by":"csi","volume":"v1","path":"/pool/a/snapshots/s1","size_bytes":1073741824,
		"quota_bytes":1073741824,"used_bytes":258000,"exclusive_bytes":258,"nocow":false,"compression":"zstd:3","uid":1000,"gid":2000,
		"mode":"2770","labels":{"created-by":"csi"},"health":{"status":"ok"},
		"created_at":"2026-01-02T11:00:00Z","updated_at":"2026-01-02T11:00:00Z"}`
	const short = `{"name":"s1","created_by":"csi","volume":"v1","size_bytes":1073741824,"used_bytes":258000,"created_at":"2026-01-02T11:00:00Z"}`
	h.a().usage = someUsage
	h.a().getSnapshot = func(string) (storage.Snapshot, error) { return fullSnapshot(), nil }
	h.a().listSnapshots = func(storage.Query) (storage.Page[storage.Snapshot], error) {
		return storage.Page[storage.Snapshot]{Items: []storage.Snapshot{fullSnapshot()}, Total: 1}, nil
	}
	sameJSON(t, h.do("GET", "/v1/snapshots/s1", ""), detail)
	for _, list := range []string{"/v1/snapshots", "/v1/volumes/v1/snapshots"} {
		sameJSON(t, h.do("GET", list, ""), `{"snapshots":[`+short+`],"total":1}`)
		sameJSON(t, h.do("GET", list+"?detail=true", ""), `{"snapshots":[`+detail+`],"total":1}`)
	}
}

func TestVolumeIDsOnTheWire(t *testing.T) {
	h := start(t)
	h.a().usage = someUsage
	volumeID, sourceID := uuid.New(), uuid.New()
	v, s := fullVolume(), fullSnapshot()
	v.VolumeID, v.SourceVolumeID, s.VolumeID = volumeID, sourceID, volumeID
	h.a().getVolume = func(string) (storage.Volume, error) { return v, nil }
	h.a().listVolumes = func(storage.Query) (storage.Page[storage.Volume], error) {
		return storage.Page[storage.Volume]{Items: []storage.Volume{v}, Total: 1}, nil
	}
	h.a().getSnapshot = func(string) (storage.Snapshot, error) { return s, nil }
	h.a().listSnapshots = func(storage.Query) (storage.Page[storage.Snapshot], error) {
		return storage.Page[storage.Snapshot]{Items: []storage.Snapshot{s}, Total: 1}, nil
	}
	for path, want := range map[string]string{
		"/v1/volumes/v1":            `"id":"` + volumeID.String() + `"`,
		"/v1/volumes?detail=true":   `"source_volume_id":"` + sourceID.String() + `"`,
		"/v1/volumes":               `"id":"` + volumeID.String() + `"`,
		"/v1/snapshots/s1":          `"volume_id":"` + volumeID.String() + `"`,
		"/v1/snapshots":             `"volume_id":"` + volumeID.String() + `"`,
		"/v1/snapshots?detail=true": `"volume_id":"` + volumeID.String() + `"`,
	} {
		got := h.do("GET", path, "")
		assert.Check(t, strings.Contains(string(got.body), want), "%s: %s", path, got.body)
	}
}

func TestEmptyListsOnTheWire(t *testing.T) {
	h := start(t)
	h.a().listVolumes = func(storage.Query) (p storage.Page[storage.Volume], _ error) { return p, nil }
	h.a().listSnapshots = func(storage.Query) (p storage.Page[storage.Snapshot], _ error) { return p, nil }
	h.a().listExports = func(storage.Query) (p storage.Page[storage.ExportEntry], _ error) { return p, nil }
	for path, want := range map[string]string{
		"/v1/volumes":              `{"volumes":[],"total":0}`,
		"/v1/volumes?detail=true":  `{"volumes":[],"total":0}`,
		"/v1/snapshots":            `{"snapshots":[],"total":0}`,
		"/v1/volumes/v1/snapshots": `{"snapshots":[],"total":0}`,
		"/v1/exports":              `{"exports":[],"total":0}`,
	} {
		sameJSON(t, h.do("GET", path, ""), want)
	}
}

func TestExportOnTheWire(t *testing.T) {
	h := start(t)
	h.a().export = func(string, storage.ExportSpec) (storage.ExportGrant, error) {
		return storage.ExportGrant{Path: "/pool/a/v1", MountPath: "/pool/a/v1/data", MountOptions: []string{"vers=4.2"}, UsageToken: "u"}, nil
	}
	sameJSON(t, h.do("POST", "/v1/volumes/v1/export", `{"client":"10.0.0.7"}`),
		`{"path":"/pool/a/v1","mount_path":"/pool/a/v1/data","mount_options":["vers=4.2"],"usage_token":"u"}`)

	h.a().listExports = func(storage.Query) (storage.Page[storage.ExportEntry], error) {
		entry := storage.ExportEntry{Volume: "v1", CreatedBy: "csi", Ref: storage.Ref{Client: netip.MustParseAddr("fd00::7"), ReadOnly: true, CreatedAt: noon}}
		return storage.Page[storage.ExportEntry]{Items: []storage.ExportEntry{entry}, Total: 1}, nil
	}
	sameJSON(t, h.do("GET", "/v1/exports", ""), `{"exports":[
		{"name":"v1","created_by":"csi","client":"fd00::7","read_only":true,"labels":{},"created_at":"2026-01-02T11:00:00Z"}],"total":1}`)
}

func TestStatsOnTheWire(t *testing.T) {
	h := start(t)
	h.store.stats = func() (storage.Stats, error) {
		return storage.Stats{Stats: pool.Stats{
			StatfsTotal: 1, StatfsUsed: 2, StatfsFree: 3,
			Space: btrfs.Space{
				TotalBytes: 4, UsedBytes: 5, FreeBytes: 6, UnallocatedBytes: 7, DataRatio: 2,
				Metadata: btrfs.Usage{UsedBytes: 8, TotalBytes: 9},
			},
			Devices: []btrfs.Device{{
				ID: 1, Path: "/dev/sda", SizeBytes: 10, AllocatedBytes: 11,
				IO: btrfs.DeviceIO{
					ReadBytes: 12, ReadIOs: 13, ReadTimeMs: 14, WriteBytes: 15, WriteIOs: 16, WriteTimeMs: 17, InProgress: 18,
					IOTimeMs: 19, WeightedIOTimeMs: 20,
				},
				Errors: btrfs.DeviceErrors{Read: 21, Write: 22, Flush: 23, Corruption: 24, Generation: 25},
			}, {ID: 2, Missing: true}},
		}}, nil
	}
	sameJSON(t, h.do("GET", "/v1/stats", ""), `{"tenant_name":"a","statfs":{"total_bytes":1,"used_bytes":2,"free_bytes":3},
		"btrfs":{"total_bytes":4,"used_bytes":5,"free_bytes":6,"unallocated_bytes":7,"metadata_used_bytes":8,"metadata_total_bytes":9,
		"data_ratio":2,"devices":[
		{"devid":"1","device":"/dev/sda","missing":false,"size_bytes":10,"allocated_bytes":11,
		"io":{"read_bytes_total":12,"read_ios_total":13,"read_time_ms_total":14,"write_bytes_total":15,"write_ios_total":16,
		"write_time_ms_total":17,"ios_in_progress":18,"io_time_ms_total":19,"weighted_io_time_ms_total":20},
		"errors":{"read_errs":21,"write_errs":22,"flush_errs":23,"corruption_errs":24,"generation_errs":25}},
		{"devid":"2","device":"","missing":true,"size_bytes":0,"allocated_bytes":0,
		"io":{"read_bytes_total":0,"read_ios_total":0,"read_time_ms_total":0,"write_bytes_total":0,"write_ios_total":0,
		"write_time_ms_total":0,"ios_in_progress":0,"io_time_ms_total":0,"weighted_io_time_ms_total":0},
		"errors":{"read_errs":0,"write_errs":0,"flush_errs":0,"corruption_errs":0,"generation_errs":0}}]}}`)
	limited := storage.Stats{Tenants: map[string]storage.TenantStats{"a": {Limits: storage.TenantLimits{SizeBytes: 1}, Volumes: 2, SizeBytes: 3}}}
	got := wireStats("a", limited).TenantLimits
	assert.DeepEqual(t, got, &agentapi.TenantLimits{MaxSizeBytes: 1, Volumes: 2, SizeBytes: 3})
}

func TestUsageOnTheWire(t *testing.T) {
	h := start(t)
	h.a().report = func(string) (storage.Report, error) {
		return storage.Report{QuotaBytes: 100, UsedBytes: 99, Conditions: []storage.Condition{{Reason: "VolumeNearlyFull", Message: "99 %"}}}, nil
	}
	sameJSON(t, h.do("GET", "/v1/volumes/v1/usage", ""), `{"quota_bytes":100,"used_bytes":99,
		"health":{"status":"degraded","conditions":[{"reason":"VolumeNearlyFull","message":"99 %"}]}}`)
}

func TestHealthOnTheWire(t *testing.T) {
	h := start(t)
	sameJSON(t, withoutUptime(t, h.do("GET", "/healthz", "", "Authorization", "")), `{"status":"ok","version":"v1.2.3","commit":"abc","date":"2026-01-02T03:04:05Z","features":["volume-id","clone-properties","create-properties"]}`)

	h.store.conditions = []storage.Condition{{Reason: "DeviceMissing", Message: "device 2"}}
	sameJSON(t, withoutUptime(t, h.do("GET", "/healthz", "", "Authorization", "")), `{"status":"degraded","version":"v1.2.3","commit":"abc","date":"2026-01-02T03:04:05Z",
		"features":["volume-id","clone-properties","create-properties"],"conditions":[{"reason":"DeviceMissing","message":"device 2"}]}`)
}

// withoutUptime removes the field that depends on the clock, which must be a whole number of
// seconds.
func withoutUptime(t *testing.T, a answer) answer {
	t.Helper()
	uptime := regexp.MustCompile(`"uptime_seconds":\d+,?`)
	assert.Equal(t, len(uptime.FindAll(a.body, -1)), 1, "%s", a.body)
	a.body = regexp.MustCompile(`,}$`).ReplaceAll(bytes.TrimSpace(uptime.ReplaceAll(a.body, nil)), []byte("}"))
	return a
}

func TestErrorOnTheWire(t *testing.T) {
	h := start(t)
	for code, status := range map[agentapi.Code]int{
		agentapi.BadRequest: 400, agentapi.Invalid: 400, agentapi.Unauthorized: 401, agentapi.Forbidden: 403,
		agentapi.NotFound: 404, agentapi.AlreadyExists: 409, agentapi.Busy: 423, agentapi.Quarantined: 423, agentapi.TooLarge: 413, agentapi.RateLimited: 429,
		agentapi.NoSpace: 507, agentapi.MetadataError: 500, agentapi.Unavailable: 503,
	} {
		h.a().deleteVolume = func(string) error { return agentapi.Errorf(code, "about %s", "v1") }
		got := h.do("DELETE", "/v1/volumes/v1", "")
		assert.Equal(t, got.status, status, code)
		sameJSON(t, got, `{"error":"about v1","code":"`+string(code)+`"}`)
	}
}

// The server must understand requests of existing clients, whatever their Content-Type.
func TestRequestsOfOldClients(t *testing.T) {
	h := start(t)
	var got storage.VolumeSpec
	h.a().createVolume = func(_ context.Context, spec storage.VolumeSpec) (storage.Volume, bool, error) {
		got = spec
		return fullVolume(), true, nil
	}
	const body = `{"name":"v1","size_bytes":1048576,"quota_bytes":0,"nocow":true,"compression":"none","root_squash":true,"uid":1000,"gid":0,"mode":"0750","labels":{"k":"v"}}`
	for _, contentType := range []string{"", "application/json", "application/json; charset=utf-8", "application/x-www-form-urlencoded", "text/plain"} {
		assert.Equal(t, h.do("POST", "/v1/volumes", body, "Content-Type", contentType).status, 201, contentType)
		assert.DeepEqual(t, got, storage.VolumeSpec{
			Name: "v1", SizeBytes: 1 << 20, Labels: map[string]string{"k": "v"},
			RequestedProperties: agentapi.RequestedProperties{
				Nocow: new(true), Compression: new("none"), RootSquash: new(true), Uid: new(int64(1000)), Gid: new(int64(0)), Mode: new("0750"),
			},
		})
	}
}

func sameJSON(t *testing.T, got answer, want string) {
	t.Helper()
	var gotValue, wantValue any
	assert.NilError(t, json.Unmarshal(got.body, &gotValue), "%s", got.body)
	assert.NilError(t, json.Unmarshal([]byte(want), &wantValue), "%s", want)
	assert.DeepEqual(t, gotValue, wantValue)
	assert.Equal(t, got.header.Get("Content-Type"), "application/json")
}
