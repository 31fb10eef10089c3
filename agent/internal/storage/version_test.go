package storage

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

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
	mayBeDropped := map[string]string{
		"metadata":  "volume_id source_volume_id nested_subvolumes", // IDs are derived again, see volumeid.go
		"reference": "subvolume",                                    // only set together with fsid
	}
	var protect = map[string][]string{}
	for _, field := range protectingMetadata {
		protect["metadata"] = append(protect["metadata"], field.name)
		assert.Assert(t, field.version <= metadataVersion, field.name)
	}
	for _, field := range protectingRefs {
		protect["reference"] = append(protect["reference"], field.name)
		assert.Assert(t, field.version <= refVersion, field.name)
	}
	for file, of := range map[string]reflect.Type{
		"metadata": reflect.TypeFor[metadata](), "unfinished": reflect.TypeFor[changed](),
		"change": reflect.TypeFor[change](), "settings": reflect.TypeFor[settings](), "reference": reflect.TypeFor[refFile](),
	} {
		for _, field := range jsonFields(of) {
			all := slices.Concat(strings.Fields(known[file]), strings.Fields(mayBeDropped[file]), protect[file])
			assert.Check(t, is.Contains(all, field.name), file)
		}
	}
}

// A file has the lowest version that covers its set fields, whatever its previous version was.
func TestLowestVersion(t *testing.T) {
	type file struct{ quiet, old, new, newest bool }
	fields := []protectingField[file]{
		{"old", 1, func(f file) bool { return f.old }},
		{"newest", 3, func(f file) bool { return f.newest }},
		{"new", 2, func(f file) bool { return f.new }},
	}
	for want, files := range map[int][]file{
		1: {{}, {quiet: true}, {old: true}},
		2: {{new: true}, {quiet: true, old: true, new: true}},
		3: {{newest: true}, {newest: true, new: true, old: true}},
	} {
		for _, f := range files {
			assert.Equal(t, lowestVersion(fields, f), want, "%+v", f)
		}
	}

	for _, v := range []Volume{{Name: "v"}, {Name: "v", VolumeID: uuid.New(), Properties: Properties{RootSquash: true}}} {
		content, err := v.metadata().encode()
		assert.NilError(t, err)
		m, err := decodeMetadata(content)
		assert.NilError(t, err)
		assert.Equal(t, m.Version, 1)
	}
	changed := Volume{Name: "v", Pending: pendingChanges{{To: settings{Mode: new(uint32)}}}}
	assert.Equal(t, changed.metadata().version(), 2)
	for want, ref := range map[string]Ref{
		`{"client":"10.0.0.1","read_only":true,`:    {Client: client1, ReadOnly: true},
		`{"version":2,"client":"10.0.0.1","fsid":"`: {Client: client1, Attachment: Attachment{FSID: uuid.New()}},
	} {
		content, err := ref.encode()
		assert.NilError(t, err)
		compact := strings.NewReplacer("\n", "", " ", "").Replace(string(content))
		assert.Check(t, strings.HasPrefix(compact, want), compact)
	}
}

// Unknown fields of another release survive when this agent rewrites the file.
func TestUnknownFieldsSurvive(t *testing.T) {
	r := newTestEnv(t, smallPool)
	v := mustCreate(t, r.ten, "v")
	file := filepath.Join(v.Path, metadataFile)
	r.export(client1, "1")
	ref := filepath.Join(v.Path, clientsDir, mustGet(t, r.ten, "v").Refs[0].file())
	r.store.abandon()
	const number = "123456789012345678901234567890"
	for _, path := range []string{file, ref} {
		edit(t, path, "\n}", `, "later": {"a": [1, {"b": `+number+`}]}, "schedule": "hourly=24"`+"\n}")
	}
	r.open()
	assert.Equal(t, mustGet(t, r.ten, "v").Quarantine, "")
	survive := func(what string, paths ...string) {
		t.Helper()
		for _, path := range paths {
			content, err := os.ReadFile(path)
			assert.NilError(t, err)
			var fields map[string]any
			assert.NilError(t, json.Unmarshal(content, &fields))
			assert.Check(t, is.Contains(string(content), `"b": `+number), what)
			assert.Check(t, fields["schedule"] == "hourly=24", what)
		}
	}
	_, err := r.ten.UpdateVolume(t.Context(), "v", VolumeUpdate{Mode: ptr(uint32(0o700)), RootSquash: ptr(true)})
	assert.NilError(t, err)
	survive("patch", file)
	_, err = r.ten.UpdateVolume(t.Context(), "v", VolumeUpdate{RootSquash: ptr(false)})
	assert.NilError(t, err)
	assert.Assert(t, !metadataOf(t, v).RootSquash) // a known field that is omitted is gone
	r.export(client2, "1")
	survive("publish", file)
	_, err = r.ten.Export(t.Context(), "v", ExportSpec{Client: client1, ReadOnly: true, Labels: pod("1")})
	assert.NilError(t, err)
	survive("reference becomes read-only", file, ref)

	// An unexport fails midway, and the client attaches again.
	r.exporter.setFail(fmt.Errorf("out of order"))
	assert.Assert(t, r.ten.Unexport(t.Context(), "v", client1, nil) != nil)
	r.exporter.setFail(nil)
	r.export(client1, "1")
	survive("reference is live again", ref)

	// An administrator restores the data, and a change is interrupted.
	r.store.abandon()
	data := filepath.Join(v.Path, dataDir)
	btrfsCommand(t, "subvolume", "snapshot", data, data+"-restored")
	btrfsCommand(t, "subvolume", "delete", data)
	assert.NilError(t, os.Rename(data+"-restored", data))
	edit(t, file, `"created_at"`, `"unfinished": {"mode": true}, "created_at"`)
	r.open()
	assert.Equal(t, mustGet(t, r.ten, "v").Quarantine, "")
	survive("start", file)
	content, err := os.ReadFile(file)
	assert.NilError(t, err)
	assert.Assert(t, !strings.Contains(string(content), "unfinished"))
	assertRules(t, r.store)
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

// A file that this agent cannot read may contain unknown data, so the agent does not replace it.
func TestUnreadableFilesAreNotReplaced(t *testing.T) {
	for name, content := range map[string]string{
		"a newer agent's": `{"version": 9, "name": "v", "mode": "7"}`,
		"another's":       `{"version": 1, "name": "w", "mode": "7"}`,
		"garbage":         `{"version": 1`,
		"empty":           ``,
	} {
		t.Run(name, func(t *testing.T) {
			r := newTestEnv(t, smallPool)
			v := mustCreate(t, r.ten, "v")
			file := filepath.Join(v.Path, metadataFile)
			assert.NilError(t, os.WriteFile(file, []byte(content), 0o600))
			_, err := r.ten.UpdateVolume(t.Context(), "v", VolumeUpdate{Mode: ptr(uint32(0o700))})
			assert.ErrorContains(t, err, metadataFile)
			_, err = r.ten.Export(t.Context(), "v", ExportSpec{Client: client1})
			assert.ErrorContains(t, err, metadataFile)
			have, err := os.ReadFile(file)
			assert.NilError(t, err)
			assert.Equal(t, string(have), content)
			assert.Assert(t, mustGet(t, r.ten, "v").Quarantine != "")
		})
	}
}

// The agent does not replace an unreadable file of a reference either.
func TestUnreadableReferenceIsNotReplaced(t *testing.T) {
	r := newTestEnv(t, smallPool)
	v := mustCreate(t, r.ten, "v")
	r.export(client1, "1")
	file := filepath.Join(v.Path, clientsDir, mustGet(t, r.ten, "v").Refs[0].file())
	edit(t, file, `"version": 2`, `"version": 9`)
	_, err := r.ten.Export(t.Context(), "v", ExportSpec{Client: client1, ReadOnly: true, Labels: pod("1")})
	assert.ErrorContains(t, err, "newer agent")
	content, err := os.ReadFile(file)
	assert.NilError(t, err)
	assert.Assert(t, is.Contains(string(content), `"version": 9`))
}
