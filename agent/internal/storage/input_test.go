package storage

import (
	"context"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// badNames are names that no volume, snapshot or source may have.
var badNames = map[string]string{
	"empty": "", "too long": strings.Repeat("n", 129), "separator": "a/b", "parent": "..", "dot": ".", "hidden": ".agent",
	"absolute": "/etc", "escape": "../other/v", "NUL": "a\x00b", "line break": "a\nb", "space": "a b", "unicode": "völume",
	"wide unicode": "ｖ", "pipe": "class|name", "reserved": "snapshots", "dash first": "-rf", "underscore first": "_a",
	"percent": "%2e%2e", "backslash": `a\b`, "not UTF-8": "a\xff", "colon": "a:b", "star": "*",
}

func badLabels() map[string]map[string]string {
	many := map[string]string{}
	for i := range agentapi.MaxLabels + 1 {
		many[fmt.Sprint("k", i)] = "v"
	}
	return map[string]map[string]string{
		"33 labels": many, "empty key": {"": "v"}, "upper case key": {"Key": "v"}, "long key": {strings.Repeat("k", 64): "v"},
		"key with a slash": {"a/b": "v"}, "key with an equals sign": {"a=b": "v"}, "key of dots": {"..": "v"}, "NUL in a key": {"a\x00": "v"},
		"long value": {"k": strings.Repeat("v", 129)}, "space in a value": {"k": "a b"}, "unicode value": {"k": "ü"},
		"pipe in a value": {"k": "a|b"}, "separator in a value": {"k": "a/b"}, "line break at the end": {"k": "v\n"}, "NUL in a value": {"k": "\x00"},
	}
}

// refusal is a request that must be refused, and the words that its error must contain: the field
// and the limit.
type refusal struct {
	name  string
	do    func(ctx context.Context, ten *Tenant) error
	code  agentapi.Code
	words []string
}

func TestBadInputIsRefusedAndChangesNothing(t *testing.T) {
	t.Parallel()
	ten, pool := openTenant(t)
	withSnapshot(t, ten)
	withBystanders(t, ten)
	before, disk := viewOf(t, ten), tree(t, pool.Dir)
	for _, r := range slices.Concat(badNameRefusals(), badLabelRefusals(), badVolumeRefusals(), badCloneRefusals(), badUpdateRefusals(),
		badClientRefusals(), badQueryRefusals()) {
		err := r.do(t.Context(), ten)
		if agentapi.CodeOf(err) != r.code || err == nil {
			t.Errorf("%s: the error is %v, want %s", r.name, err, r.code)
			continue
		}
		for _, word := range r.words {
			assert.Check(t, cmp.Contains(err.Error(), word), r.name)
		}
	}
	assert.DeepEqual(t, viewOf(t, ten), before)
	assert.DeepEqual(t, tree(t, pool.Dir), disk)
	assertRules(t, ten.store)
}

// tree lists all files below a directory, with sizes.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	assert.NilError(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		out = append(out, fmt.Sprintf("%s %s %d %s", path, info.Mode(), info.Size(), info.ModTime()))
		return err
	}))
	return out
}

func badNameRefusals() []refusal {
	methods := map[string]struct {
		field string
		do    func(ctx context.Context, ten *Tenant, name string) error
	}{
		"create": {"name", func(ctx context.Context, ten *Tenant, name string) error {
			_, _, err := ten.CreateVolume(ctx, VolumeSpec{Name: name, SizeBytes: 16 * mib})
			return err
		}},
		"clone to": {"name", func(ctx context.Context, ten *Tenant, name string) error {
			_, _, err := ten.Clone(ctx, CloneSpec{Name: name, Volume: "v"})
			return err
		}},
		"clone of volume": {"source", func(ctx context.Context, ten *Tenant, name string) error {
			_, _, err := ten.Clone(ctx, CloneSpec{Name: "new", Volume: name})
			return err
		}},
		"clone of snapshot": {"s", func(ctx context.Context, ten *Tenant, name string) error {
			_, _, err := ten.Clone(ctx, CloneSpec{Name: "new", Snapshot: name})
			return err
		}},
		"snapshot to": {"name", func(ctx context.Context, ten *Tenant, name string) error {
			_, _, err := ten.CreateSnapshot(ctx, SnapshotSpec{Name: name, Volume: "v"})
			return err
		}},
		"snapshot of": {"volume", func(ctx context.Context, ten *Tenant, name string) error {
			_, _, err := ten.CreateSnapshot(ctx, SnapshotSpec{Name: "new", Volume: name})
			return err
		}},
		"get": {"name", func(ctx context.Context, ten *Tenant, name string) error {
			_, err := ten.GetVolume(ctx, name)
			return err
		}},
		"get snapshot": {"name", func(ctx context.Context, ten *Tenant, name string) error {
			_, err := ten.GetSnapshot(ctx, name)
			return err
		}},
		"report": {"name", func(ctx context.Context, ten *Tenant, name string) error {
			_, err := ten.Report(ctx, name)
			return err
		}},
		"update": {"name", func(ctx context.Context, ten *Tenant, name string) error {
			_, err := ten.UpdateVolume(ctx, name, VolumeUpdate{RequestedProperties: chosen{Mode: ptr("0")}})
			return err
		}},
		"delete":          {"name", func(ctx context.Context, ten *Tenant, name string) error { return ten.DeleteVolume(ctx, name) }},
		"delete snapshot": {"name", func(ctx context.Context, ten *Tenant, name string) error { return ten.DeleteSnapshot(ctx, name) }},
		"export": {"name", func(ctx context.Context, ten *Tenant, name string) error {
			_, err := ten.Export(ctx, name, ExportSpec{Client: client1})
			return err
		}},
		"unexport": {"name", func(ctx context.Context, ten *Tenant, name string) error {
			return ten.Unexport(ctx, name, client1, nil)
		}},
	}
	var out []refusal
	for method, m := range methods {
		for kind, name := range badNames {
			out = append(out, refusal{method + " " + kind, func(ctx context.Context, ten *Tenant) error { return m.do(ctx, ten, name) },
				agentapi.Invalid, []string{m.field}})
		}
	}
	return out
}

func badLabelRefusals() []refusal {
	var out []refusal
	for kind, labels := range badLabels() {
		for method, do := range map[string]func(ctx context.Context, ten *Tenant) error{
			"create": func(ctx context.Context, ten *Tenant) error {
				_, _, err := ten.CreateVolume(ctx, VolumeSpec{Name: "new", SizeBytes: 16 * mib, Labels: labels})
				return err
			},
			"clone": func(ctx context.Context, ten *Tenant) error {
				_, _, err := ten.Clone(ctx, CloneSpec{Name: "new", Volume: "v", Labels: labels})
				return err
			},
			"snapshot": func(ctx context.Context, ten *Tenant) error {
				_, _, err := ten.CreateSnapshot(ctx, SnapshotSpec{Name: "new", Volume: "v", Labels: labels})
				return err
			},
			"update": func(ctx context.Context, ten *Tenant) error {
				_, err := ten.UpdateVolume(ctx, "v", VolumeUpdate{Labels: labels})
				return err
			},
			"export": func(ctx context.Context, ten *Tenant) error {
				_, err := ten.Export(ctx, "v", ExportSpec{Client: client1, Labels: labels})
				return err
			},
			"unexport": func(ctx context.Context, ten *Tenant) error { return ten.Unexport(ctx, "v", client1, labels) },
		} {
			out = append(out, refusal{method + " " + kind, do, agentapi.Invalid, []string{"labels"}})
		}
	}
	// The label created-by is kept, and would exceed the limit.
	full := map[string]string{}
	for i := range agentapi.MaxLabels {
		full[fmt.Sprint("k", i)] = "v"
	}
	return append(out, refusal{"update 32 labels and the creator's", func(ctx context.Context, ten *Tenant) error {
		_, err := ten.UpdateVolume(ctx, "v", VolumeUpdate{Labels: full})
		return err
	}, agentapi.Invalid, []string{"labels", "32"}})
}

func badVolumeRefusals() []refusal {
	invalid := map[string]struct {
		change func(*VolumeSpec)
		words  []string
	}{
		"size missing":          {func(s *VolumeSpec) { s.SizeBytes = 0 }, []string{"size_bytes", "1 MiB"}},
		"size negative":         {func(s *VolumeSpec) { s.SizeBytes = -1 }, []string{"size_bytes", "1 MiB"}},
		"size least":            {func(s *VolumeSpec) { s.SizeBytes = math.MinInt64 }, []string{"size_bytes"}},
		"size small":            {func(s *VolumeSpec) { s.SizeBytes = mib - 1 }, []string{"size_bytes", "1048576"}},
		"quota negative":        {func(s *VolumeSpec) { s.QuotaBytes = -1 }, []string{"quota_bytes"}},
		"quota small":           {func(s *VolumeSpec) { s.QuotaBytes = 1 }, []string{"quota_bytes", "1048576"}},
		"uid negative":          {func(s *VolumeSpec) { s.Uid = ptr(int64(-1)) }, []string{"uid", "65534"}},
		"uid large":             {func(s *VolumeSpec) { s.Uid = ptr(int64(65535)) }, []string{"uid", "65534"}},
		"uid wraps":             {func(s *VolumeSpec) { s.Uid = ptr(int64(1) << 32) }, []string{"uid", "65534"}},
		"gid negative":          {func(s *VolumeSpec) { s.Gid = ptr(int64(-1)) }, []string{"gid", "65534"}},
		"gid large":             {func(s *VolumeSpec) { s.Gid = ptr(int64(math.MaxInt64)) }, []string{"gid", "65534"}},
		"mode":                  {func(s *VolumeSpec) { s.Mode = ptr("010000") }, []string{"mode", "7777"}},
		"mode large":            {func(s *VolumeSpec) { s.Mode = ptr("37777777777") }, []string{"mode", "7777"}},
		"nocow and compression": {func(s *VolumeSpec) { s.Nocow, s.Compression = ptr(true), ptr("zstd") }, []string{"nocow", "compression"}},
	}
	for _, value := range badCompressions {
		invalid["compression "+value] = struct {
			change func(*VolumeSpec)
			words  []string
		}{func(s *VolumeSpec) { s.Compression = &value }, []string{"compression"}}
	}
	var out []refusal
	for name, bad := range invalid {
		out = append(out, refusal{"create: " + name, creatingWith(bad.change), agentapi.Invalid, bad.words})
	}
	for name, size := range map[string]int64{"of everything": math.MaxInt64, "of more than the pool": 2 << 30, "of a wrapped size": 1 << 62} {
		out = append(out, refusal{"create " + name, creatingWith(func(s *VolumeSpec) { s.SizeBytes = size }), agentapi.NoSpace,
			[]string{"size_bytes", fmt.Sprint(size)}})
	}
	return out
}

var badCompressions = []string{
	"gzip", "ZSTD", "zstd:", "zstd:0", "zstd:16", "zstd:-1", "zstd:+3", "zstd:03", "zstd:3 ", " zstd", "zstd:3:3", "zstd:banana", "zlib:10", "zlib:0",
	"lzo:1", "none:1", ":", ":1", "zstd\x00", "no", "zstd:9999999999999999999",
}

func creatingWith(change func(*VolumeSpec)) func(ctx context.Context, ten *Tenant) error {
	return func(ctx context.Context, ten *Tenant) error {
		spec := VolumeSpec{Name: "new", SizeBytes: 16 * mib}
		change(&spec)
		_, _, err := ten.CreateVolume(ctx, spec)
		return err
	}
}

func badCloneRefusals() []refusal {
	clone := func(spec CloneSpec) func(ctx context.Context, ten *Tenant) error {
		return func(ctx context.Context, ten *Tenant) error {
			_, _, err := ten.Clone(ctx, spec)
			return err
		}
	}
	return []refusal{
		{"clone without a source", clone(CloneSpec{Name: "new"}), agentapi.Invalid, []string{"source"}},
		{"clone of two sources", clone(CloneSpec{Name: "new", Volume: "v", Snapshot: "s"}), agentapi.Invalid, []string{"source"}},
		{"clone onto itself", clone(CloneSpec{Name: "v", Volume: "v"}), agentapi.Invalid, []string{"name", "source"}},
		{"clone smaller than 1 MiB", clone(CloneSpec{Name: "new", Volume: "v", SizeBytes: 1}), agentapi.Invalid, []string{"size_bytes", "1048576"}},
		{"clone of a negative size", clone(CloneSpec{Name: "new", Volume: "v", SizeBytes: -1}), agentapi.Invalid, []string{"size_bytes"}},
		{"clone smaller than the source", clone(CloneSpec{Name: "new", Volume: "v", SizeBytes: 63 * mib}), agentapi.Invalid, []string{"size_bytes", "67108864"}},
		{"clone smaller than the snapshot", clone(CloneSpec{Name: "new", Snapshot: "s", SizeBytes: 63 * mib}), agentapi.Invalid, []string{"size_bytes", "67108864"}},
		{"clone of everything", clone(CloneSpec{Name: "new", Volume: "v", SizeBytes: math.MaxInt64}), agentapi.NoSpace, []string{"size_bytes"}},
		{"clone of what is not there", clone(CloneSpec{Name: "new", Volume: "none"}), agentapi.NotFound, []string{"none"}},
		{"clone of a snapshot that is not there", clone(CloneSpec{Name: "new", Snapshot: "none"}), agentapi.NotFound, []string{"none"}},
		{"clone over a volume", clone(CloneSpec{Name: "bystander", Volume: "v"}), agentapi.AlreadyExists, []string{"bystander", "source"}},
		{"snapshot of what is not there", func(ctx context.Context, ten *Tenant) error {
			_, _, err := ten.CreateSnapshot(ctx, SnapshotSpec{Name: "new", Volume: "none"})
			return err
		}, agentapi.NotFound, []string{"none"}},
		{"snapshot of another volume", func(ctx context.Context, ten *Tenant) error {
			_, _, err := ten.CreateSnapshot(ctx, SnapshotSpec{Name: "s", Volume: "bystander"})
			return err
		}, agentapi.AlreadyExists, []string{"volume", "bystander"}},
		{"create of another size", creatingWith(func(s *VolumeSpec) { s.Name = "v" }), agentapi.AlreadyExists, []string{"size_bytes", "67108864", "16777216"}},
	}
}

func badUpdateRefusals() []refusal {
	updates := map[string]struct {
		update VolumeUpdate
		code   agentapi.Code
		words  []string
	}{
		"smaller":            {VolumeUpdate{SizeBytes: ptr(63 * mib)}, agentapi.Invalid, []string{"size_bytes", "67108864"}},
		"size 0":             {VolumeUpdate{SizeBytes: ptr(int64(0))}, agentapi.Invalid, []string{"size_bytes"}},
		"size negative":      {VolumeUpdate{SizeBytes: ptr(int64(math.MinInt64))}, agentapi.Invalid, []string{"size_bytes"}},
		"size of everything": {VolumeUpdate{SizeBytes: ptr(int64(math.MaxInt64))}, agentapi.NoSpace, []string{"size_bytes"}},
		"uid":                {VolumeUpdate{RequestedProperties: chosen{Uid: ptr(int64(-1))}}, agentapi.Invalid, []string{"uid"}},
		"gid":                {VolumeUpdate{RequestedProperties: chosen{Gid: ptr(int64(65535))}}, agentapi.Invalid, []string{"gid"}},
		"mode":               {VolumeUpdate{RequestedProperties: chosen{Mode: ptr("010000")}}, agentapi.Invalid, []string{"mode"}},
		"compression":        {VolumeUpdate{RequestedProperties: chosen{Compression: ptr("brotli")}}, agentapi.Invalid, []string{"compression"}},
		"both":               {VolumeUpdate{RequestedProperties: chosen{Nocow: ptr(true), Compression: ptr("lzo")}}, agentapi.Invalid, []string{"nocow"}},
	}
	var out []refusal
	for name, u := range updates {
		out = append(out, refusal{"update " + name, func(ctx context.Context, ten *Tenant) error {
			_, err := ten.UpdateVolume(ctx, "v", u.update)
			return err
		}, u.code, u.words})
	}
	return append(out, refusal{"update of what is not there", func(ctx context.Context, ten *Tenant) error {
		_, err := ten.UpdateVolume(ctx, "none", VolumeUpdate{SizeBytes: ptr(128 * mib)})
		return err
	}, agentapi.NotFound, []string{"none"}})
}

func badClientRefusals() []refusal {
	clients := map[string]netip.Addr{
		"missing": {}, "unspecified": netip.IPv4Unspecified(), "unspecified 6": netip.IPv6Unspecified(), "multicast": netip.MustParseAddr("224.0.0.1"),
		"multicast 6": netip.MustParseAddr("ff02::1"), "zone": netip.MustParseAddr("fe80::1%eth0"), "mapped unspecified": netip.MustParseAddr("::ffff:0.0.0.0"),
		"mapped multicast": netip.MustParseAddr("::ffff:224.0.0.1"), "broadcast": netip.MustParseAddr("255.255.255.255"),
	}
	var out []refusal
	for _, name := range slices.Sorted(maps.Keys(clients)) {
		out = append(out,
			refusal{"export to " + name, func(ctx context.Context, ten *Tenant) error {
				_, err := ten.Export(ctx, "v", ExportSpec{Client: clients[name]})
				return err
			}, agentapi.Invalid, []string{"client"}},
			refusal{"unexport from " + name, func(ctx context.Context, ten *Tenant) error {
				return ten.Unexport(ctx, "v", clients[name], nil)
			}, agentapi.Invalid, []string{"client"}})
	}
	for name, client := range map[string]string{
		"loopback": "127.0.0.1", "loopback 6": "::1", "link-local": "169.254.1.1", "link-local 6": "fe80::1",
	} {
		out = append(out, refusal{"export to " + name, func(ctx context.Context, ten *Tenant) error {
			_, err := ten.Export(ctx, "v", ExportSpec{Client: netip.MustParseAddr(client)})
			return err
		}, agentapi.Invalid, []string{"client must not be a", "got " + client}})
	}
	return append(out, refusal{"export of what is not there", func(ctx context.Context, ten *Tenant) error {
		_, err := ten.Export(ctx, "none", ExportSpec{Client: client1})
		return err
	}, agentapi.NotFound, []string{"none"}})
}

func badQueryRefusals() []refusal {
	queries := map[string]struct {
		query Query
		words []string
	}{
		"negative limit":     {Query{Limit: -1}, []string{"limit", "1000"}},
		"large limit":        {Query{Limit: 1001}, []string{"limit", "1000"}},
		"least limit":        {Query{Limit: math.MinInt}, []string{"limit"}},
		"cursor of a name":   {Query{After: "v"}, []string{"after"}},
		"negative cursor":    {Query{After: "-1"}, []string{"after"}},
		"cursor of zeros":    {Query{After: strings.Repeat("A", 40)}, []string{"after"}},
		"cursor not base64":  {Query{After: "\x00|"}, []string{"after"}},
		"empty label":        {Query{Labels: []string{""}}, []string{"label"}},
		"label without key":  {Query{Labels: []string{"=v"}}, []string{"label"}},
		"label with a space": {Query{Labels: []string{"a=b c"}}, []string{"label"}},
		"label not in":       {Query{Labels: []string{"a!=b"}}, []string{"label"}},
		"33 labels":          {Query{Labels: slices.Repeat([]string{"a"}, 33)}, []string{"label", "32"}},
	}
	var out []refusal
	for name, q := range queries {
		for kind, list := range lists {
			out = append(out, refusal{kind + " " + name, func(_ context.Context, ten *Tenant) error {
				_, _, err := list(ten, q.query)
				return err
			}, agentapi.Invalid, q.words})
		}
	}
	return append(out, refusal{"snapshots of a bad volume", func(ctx context.Context, ten *Tenant) error {
		_, err := ten.ListSnapshots(ctx, Query{Volume: "../v"})
		return err
	}, agentapi.Invalid, []string{"name"}})
}

// lists calls the three lists in one form. Each returns names in order and the cursor.
var lists = map[string]func(*Tenant, Query) (names []string, page Page[string], err error){
	"volumes": func(ten *Tenant, q Query) ([]string, Page[string], error) {
		page, err := ten.ListVolumes(context.Background(), q)
		return namesOf(page, func(v Volume) string { return v.Name }, err)
	},
	"snapshots": func(ten *Tenant, q Query) ([]string, Page[string], error) {
		page, err := ten.ListSnapshots(context.Background(), q)
		return namesOf(page, func(s Snapshot) string { return s.Name }, err)
	},
	"exports": func(ten *Tenant, q Query) ([]string, Page[string], error) {
		page, err := ten.ListExports(context.Background(), q)
		return namesOf(page, func(e ExportEntry) string { return e.Volume + " " + e.Key() }, err)
	},
}

func namesOf[T any](page Page[T], name func(T) string, err error) ([]string, Page[string], error) {
	names := []string{}
	for _, item := range page.Items {
		names = append(names, name(item))
	}
	return names, Page[string]{Items: names, Total: page.Total, Next: page.Next}, err
}

func TestValuesAtTheLimitsAreTaken(t *testing.T) {
	t.Parallel()
	ten, _ := openTenant(t)
	ctx := t.Context()
	labels := map[string]string{strings.Repeat("k", 63): strings.Repeat("V", 128), "0": "", "a.b_c-d": "A.b_C-d"}
	for i := range agentapi.MaxLabels - len(labels) {
		labels[fmt.Sprint("k", i)] = "v"
	}
	v, _, err := ten.CreateVolume(ctx, VolumeSpec{Name: strings.Repeat("n", 128), SizeBytes: mib, QuotaBytes: math.MaxInt64, Labels: labels, RequestedProperties: chosen{Uid: ptr(int64(65534)), Gid: ptr(int64(65534)), Mode: ptr("07777")}})
	assert.NilError(t, err)
	report, err := ten.Report(ctx, v.Name)
	assert.NilError(t, err)
	assert.Equal(t, len(report.Conditions), 0, "%v", report.Conditions)
	_, _, err = ten.CreateVolume(ctx, VolumeSpec{Name: "large-quota", SizeBytes: mib, QuotaBytes: 1 << 62})
	assert.NilError(t, err)
	report, err = ten.Report(ctx, "large-quota")
	assert.NilError(t, err)
	assert.Equal(t, len(report.Conditions), 0, "%v", report.Conditions)
	for i, compression := range []string{"", "none", "lzo", "zstd", "zlib", "zstd:1", "zstd:15", "zlib:1", "zlib:9"} {
		_, _, err := ten.CreateVolume(ctx, VolumeSpec{Name: fmt.Sprint("0.", i, "-_"), SizeBytes: mib, RequestedProperties: chosen{Compression: ptr(compression)}})
		assert.NilError(t, err, compression)
	}
	_, _, err = ten.CreateVolume(ctx, VolumeSpec{Name: "0", SizeBytes: mib, RequestedProperties: chosen{Nocow: ptr(true), Compression: ptr("none"), Mode: ptr("0")}})
	assert.NilError(t, err)
	for _, client := range []string{"fd00::1", "::ffff:10.0.0.1", "255.255.255.254"} {
		_, err = ten.Export(ctx, "0", ExportSpec{Client: netip.MustParseAddr(client)})
		assert.NilError(t, err, client)
	}
	assert.NilError(t, ten.Unexport(ctx, "0", client1, nil)) // the IPv4-mapped address is the same client
	assertRules(t, ten.store)
}

// Older agents exported to loopback and link-local addresses. Such a client keeps its export until
// its references are removed, even if the request is repeated. After that it is refused.
func TestClientsOfOlderAgents(t *testing.T) {
	pool, exporter := newPool(t), newMemoryExporter()
	config := Config{BasePath: pool.Dir, Tenants: []string{tenant}}
	s, err := Open(t.Context(), initialised(t, config), exporter)
	assert.NilError(t, err)
	ten := mustTenant(t, s)
	v := mustCreate(t, ten, "v")
	var old []Ref
	for _, client := range []string{"127.0.0.1", "::1", "169.254.1.1", "fe80::1"} {
		ref := Ref{Client: netip.MustParseAddr(client), CreatedAt: now()}
		v.Refs = append(v.Refs, ref)
		slices.SortFunc(v.Refs, func(a, b Ref) int { return strings.Compare(a.Key(), b.Key()) })
		assert.NilError(t, ten.keepRef(t.Context(), v, ref))
		old = append(old, ref)
	}
	assert.NilError(t, s.Close(t.Context()))

	s = reopened(t, config, exporter)
	ten = mustTenant(t, s)
	assert.Equal(t, len(exporter.list()), len(old))
	for i, ref := range old {
		_, err = ten.Export(t.Context(), "v", ExportSpec{Client: ref.Client})
		assert.NilError(t, err)
		_, err = ten.Export(t.Context(), "v", ExportSpec{Client: ref.Client, Labels: map[string]string{"node": "n"}})
		assert.NilError(t, err)
		assert.NilError(t, s.reconcileExports(t.Context()))
		assert.Equal(t, len(exporter.list()), len(old)-i)
		assert.NilError(t, ten.Unexport(t.Context(), "v", ref.Client, nil))
		assert.Equal(t, len(exporter.list()), len(old)-i-1)
		_, err = ten.Export(t.Context(), "v", ExportSpec{Client: ref.Client})
		assertCode(t, err, agentapi.Invalid)
	}
	assert.NilError(t, s.Close(t.Context()))
}
