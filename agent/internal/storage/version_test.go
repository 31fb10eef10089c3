package storage

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// Unknown fields of another release survive when this agent rewrites the file.
func TestUnknownFieldsSurvive(t *testing.T) {
	r := newTestEnv(t, smallPool)
	v := mustCreate(t, r.ten, "v")
	file := filepath.Join(v.Path, metadataFile)
	r.export(client1, "1")
	ref := filepath.Join(v.Path, clientsDir, mustGet(t, r.ten, "v").Refs[0].FileName())
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
	_, err := r.ten.UpdateVolume(t.Context(), "v", VolumeUpdate{RequestedProperties: chosen{Mode: ptr("0700"), RootSquash: ptr(true)}})
	assert.NilError(t, err)
	survive("patch", file)
	_, err = r.ten.UpdateVolume(t.Context(), "v", VolumeUpdate{RequestedProperties: chosen{RootSquash: ptr(false)}})
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
			_, err := r.ten.UpdateVolume(t.Context(), "v", VolumeUpdate{RequestedProperties: chosen{Mode: ptr("0700")}})
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
	file := filepath.Join(v.Path, clientsDir, mustGet(t, r.ten, "v").Refs[0].FileName())
	edit(t, file, `"version": 2`, `"version": 9`)
	_, err := r.ten.Export(t.Context(), "v", ExportSpec{Client: client1, ReadOnly: true, Labels: pod("1")})
	assert.ErrorContains(t, err, "newer agent")
	content, err := os.ReadFile(file)
	assert.NilError(t, err)
	assert.Assert(t, is.Contains(string(content), `"version": 9`))
}
