package ondisk

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/labels"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

var client = netip.MustParseAddr("10.0.0.1")

// 57e475d knows each field of the agent's files, must not ignore it, or may drop it. Decide for
// each new field which one holds.
func TestFieldsAreKnownOrProtectOrMayBeDropped(t *testing.T) {
	known := map[string]string{
		"metadata": "version name uuid size_bytes quota_bytes nocow compression root_squash uid gid mode labels volume mount_options " +
			"source_volume source_snapshot created_at updated_at last_attach_at unfinished",
		"unfinished": "limit storage uid gid mode",
		"change":     "from to", // with the fields of settings of version 2; one more raises the version
		"settings":   "quota_bytes nocow compression uid gid mode",
		"reference":  "version client read_only labels created_at",
	}
	protect := map[string]string{ // those of version 2: see version.go
		"metadata":  "changes",
		"reference": "fsid",
	}
	mayBeDropped := map[string]string{
		"metadata":  "volume_id source_volume_id nested_subvolumes", // IDs are derived again, see volumeid.go
		"reference": "subvolume",                                    // only set together with fsid
	}
	for file, of := range map[string]reflect.Type{
		"metadata": reflect.TypeFor[Metadata](), "unfinished": reflect.TypeFor[Changed](),
		"change": reflect.TypeFor[Change](), "settings": reflect.TypeFor[Settings](), "reference": reflect.TypeFor[refFile](),
	} {
		for _, field := range jsonFields(of) {
			all := slices.Concat(strings.Fields(known[file]), strings.Fields(mayBeDropped[file]), strings.Fields(protect[file]))
			assert.Check(t, is.Contains(all, field.name), file)
		}
	}
}

// A file has the lowest version that covers its set fields, whatever its previous version was.
func TestLowestVersion(t *testing.T) {
	for _, v := range []Volume{{Name: "v"}, {Name: "v", VolumeID: uuid.New(), Properties: Properties{RootSquash: true}}} {
		content, err := v.Metadata().encode()
		assert.NilError(t, err)
		m, err := decodeMetadata(content)
		assert.NilError(t, err)
		assert.Equal(t, m.Version, 1)
	}
	changed := Volume{Name: "v", Pending: PendingChanges{{To: Settings{Mode: new(uint32)}}}}
	assert.Equal(t, changed.Metadata().version(), 2)
	for want, ref := range map[string]Ref{
		`{"client":"10.0.0.1","read_only":true,`:    {Client: client, ReadOnly: true},
		`{"version":2,"client":"10.0.0.1","fsid":"`: {Client: client, Attachment: Attachment{FSID: uuid.New()}},
	} {
		content, err := ref.Encode()
		assert.NilError(t, err)
		compact := strings.NewReplacer("\n", "", " ", "").Replace(string(content))
		assert.Check(t, strings.HasPrefix(compact, want), compact)
	}
}

func TestKeepUnknown(t *testing.T) {
	type object struct {
		Inner int `json:"inner,omitempty"`
	}
	type embedded struct {
		Flat int `json:"flat,omitempty"`
	}
	type file struct {
		Name   string            `json:"name"`
		Object object            `json:"object,omitzero"`
		Other  *object           `json:"other,omitempty"`
		Labels map[string]string `json:"labels,omitempty"`
		Hidden int               `json:"-"`
		embedded
	}
	for _, test := range []struct{ name, content, present, want string }{
		{"nothing unknown", `{"name":"a"}`, `{"name":"b","flat":1,"labels":{"a":"b"}}`, `{"name":"a"}`},
		{"in the order of the fields", `{"name":"a","flat":1}`, `{"z":1,"b":null}`, `{"name":"a","flat":1,"b":null,"z":1}`},
		{"object that both have", `{"name":"a","object":{"inner":1}}`, `{"object":{"inner":2,"x":{"y":1}}}`, `{"name":"a","object":{"inner":1,"x":{"y":1}}}`},
		{"behind a pointer", `{"name":"a","other":{"inner":1}}`, `{"other":{"x":1}}`, `{"name":"a","other":{"inner":1,"x":1}}`},
		{"object that is left out", `{"name":"a"}`, `{"object":{"inner":2,"x":1}}`, `{"name":"a"}`},
		{"labels are replaced as a whole", `{"name":"a","labels":{"k":"v"}}`, `{"labels":{"l":"w"}}`, `{"name":"a","labels":{"k":"v"}}`},
		{"object was something other", `{"name":"a","object":{"inner":1}}`, `{"object":[1]}`, `{"name":"a","object":{"inner":1}}`},
		{"known name in another case", `{"name":"a"}`, `{"NAME":"b","Flat":1}`, `{"name":"a"}`},
		{"field that is never written", `{"name":"a"}`, `{"Hidden":1,"-":2}`, `{"name":"a","-":2,"Hidden":1}`},
		{"name to quote", `{"name":"a"}`, `{"a\"b\u0000":"\u2028<"}`, `{"name":"a","a\"b\u0000":"\u2028<"}`},
		{"no file yet", `{"name":"a"}`, ``, `{"name":"a"}`},
	} {
		var present []byte
		if test.present != "" {
			present = []byte(test.present)
		}
		got, err := keepUnknown[file]([]byte(test.content), present)
		assert.NilError(t, err, test.name)
		var g, w any
		assert.NilError(t, json.Unmarshal(got, &g), test.name)
		assert.NilError(t, json.Unmarshal([]byte(test.want), &w), test.name)
		assert.Check(t, is.DeepEqual(g, w), test.name)
	}
	got, err := keepUnknown[file]([]byte(`{"name":"a","flat":1}`), []byte(`{"z":1,"b":2}`))
	assert.NilError(t, err)
	assert.Equal(t, string(got), "{\n  \"name\": \"a\",\n  \"flat\": 1,\n  \"b\": 2,\n  \"z\": 1\n}\n")
}

// An agent of 57e475d does not recognize references of version 2. It compares each file name with
// the name that it would have written.
func TestOlderAgentRefusesReferences(t *testing.T) {
	ref := Ref{Client: client, Attachment: Attachment{FSID: uuid.New()}, CreatedAt: time.Unix(0, 0)}
	assert.Assert(t, ref.FileName() != ref.stem()+".json")
	ref.Ended = true
	assert.Assert(t, ref.FileName() != ref.stem()+".json")
	ref = Ref{Client: client}
	assert.Equal(t, ref.FileName(), ref.stem()+".json")
}

// The derived ID of a volume must not change between releases.
func TestDerivedID(t *testing.T) {
	berlin := time.FixedZone("", 3600)
	id := derivedID("v", time.Date(2026, 1, 2, 4, 4, 5, 6_000_000, berlin))
	assert.Equal(t, id, derivedID("v", time.Date(2026, 1, 2, 3, 4, 5, 6_000_000, time.UTC)))
	assert.Equal(t, id.String(), "c6638048-d949-59af-81f8-e7c2ecdddd0f")
	assert.Assert(t, IsDerived(id) && !IsDerived(uuid.New()))
}

// Each of two IDs may have been dropped or never written, because 57e475d ran for some time.
func TestSnapshotIsOf(t *testing.T) {
	const before, after = -time.Hour, time.Hour
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	random, other, data := uuid.New(), uuid.New(), uuid.New()
	derived := derivedID("v", begin)
	for _, test := range []struct {
		name             string
		volume, snapshot uuid.UUID
		parent           uuid.UUID
		taken            time.Duration
		want             bool
	}{
		{"both stored and equal", random, random, uuid.Nil, before, true},
		{"both stored, another", random, other, data, after, false},
		{"snapshot of 57e475d of a new volume", random, uuid.Nil, data, before, true},
		{"snapshot of 57e475d, of other data", random, uuid.Nil, other, after, false},
		{"volume whose ID was dropped, same data", derived, other, data, before, true},
		{"volume whose ID was dropped, restored data", derived, other, other, after, true},
		{"volume of 57e475d, predecessor's", derived, other, other, before, false},
		{"both of 57e475d, taken later", derived, uuid.Nil, other, after, true},
		{"both of 57e475d, taken at once", derived, uuid.Nil, other, 0, true},
		{"both of 57e475d, predecessor's", derived, uuid.Nil, other, before, false},
		{"both of 57e475d, clock set back", derived, uuid.Nil, data, before, true},
	} {
		v := &Volume{Name: "v", VolumeID: test.volume, UUID: data, CreatedAt: begin}
		s := &Snapshot{Volume: "v", VolumeID: test.snapshot, ParentUUID: test.parent, CreatedAt: begin.Add(test.taken)}
		assert.Check(t, s.IsOf(v) == test.want, test.name)
		s.Volume = "w"
		assert.Check(t, s.IsOf(v) == (test.volume == test.snapshot), "%s, another name", test.name)
	}
}

func FuzzDecodeMetadata(f *testing.F) {
	now := time.Now().UTC().Truncate(time.Millisecond)
	v := Volume{Name: "v", Labels: labels.Of(map[string]string{"a": "b"}), SourceVolume: "w", CreatedAt: now, UpdatedAt: now, LastAttachAt: now}
	v.Properties = Properties{SizeBytes: 1 << 20, QuotaBytes: 1 << 20, Compression: "zstd:3", UID: 1, GID: 2, Mode: 0o2770}
	good, err := v.Metadata().encode()
	assert.NilError(f, err)
	f.Add(good)
	for _, seed := range []string{"", " ", "null", "{}", "[]", `{"version":1}`, `{"version":1,"name":"v","mode":"8"}`, `{"version":2,"name":"v","mode":"7"}`, "\x00\x00",
		`{"version":1,"name":"../v","mode":"7"}`, `{"version":1,"name":"v","mode":"7","size_bytes":-1}`, `{"version":1,"name":"v","mode":"-7"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		m, err := decodeMetadata(content)
		if err != nil {
			return
		}
		// Accepted metadata is accepted again with the same value after a write.
		assert.NilError(t, id.ValidateName(m.Name))
		volume, snapshot := m.AsVolume(), m.AsSnapshot()
		assert.Assert(t, volume.SizeBytes >= 0 && volume.QuotaBytes >= 0 && volume.Mode <= 0o7777)
		written, err := volume.Metadata().encode()
		assert.NilError(t, err)
		again, err := decodeMetadata(written)
		assert.NilError(t, err)
		back := again.AsVolume()
		assert.DeepEqual(t, back.Labels, volume.Labels, cmpopts.EquateEmpty())
		assert.Equal(t, back.Properties, volume.Properties)
		assert.Assert(t, back.CreatedAt.Equal(volume.CreatedAt))
		_, err = snapshot.Metadata().encode()
		assert.NilError(t, err)
	})
}
