package storage

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"gotest.tools/v3/assert"
)

// view is what a client can see of a tenant, as text. It omits times and UUIDs, so that views of
// different runs can be compared.
type view []string

func viewOf(t testing.TB, ten *Tenant) view {
	t.Helper()
	out := view{}
	for _, v := range ten.volumes.all() {
		out = append(out, fmt.Sprintf("volume %s %+v labels %s options %q from %s%s holds %q quarantine %q", v.Name, v.Properties,
			formatLabels(v.Labels), v.MountOptions, v.SourceVolume, v.SourceSnapshot, contents(t, v.Path), v.Quarantine))
		for _, ref := range v.Refs {
			out = append(out, fmt.Sprintf("reference %s %s read-only %t labels %s", v.Name, ref.Client, ref.ReadOnly, formatLabels(ref.Labels)))
		}
	}
	for _, s := range ten.snapshots.all() {
		out = append(out, fmt.Sprintf("snapshot %s of %s %+v labels %s holds %q quarantine %q", s.Name, s.Volume, s.Properties,
			formatLabels(s.Labels), contents(t, s.Path), s.Quarantine))
	}
	exports, err := ten.store.exporter.List(t.Context())
	assert.NilError(t, err)
	for _, e := range exports {
		out = append(out, fmt.Sprintf("export %s %s %+v", filepath.Base(filepath.Dir(e.Path)), e.Client, e.Options))
	}
	slices.Sort(out)
	return out
}

// lost returns the lines that are in both before and after, and not in v.
func (v view) lost(before, after view) view {
	return slices.DeleteFunc(slices.Clone(before), func(line string) bool {
		return !slices.Contains(after, line) || slices.Contains(v, line)
	})
}

// contents returns the file that fill wrote.
func contents(t testing.TB, dir string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, dataDir, "file"))
	if os.IsNotExist(err) {
		return ""
	}
	assert.NilError(t, err)
	return string(content)
}

// fill writes the file durably, as a client that calls fsync does.
func fill(t testing.TB, dir, content string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, dataDir, "file"))
	assert.NilError(t, err)
	defer f.Close()
	_, err = f.WriteString(content)
	assert.NilError(t, err)
	assert.NilError(t, f.Sync())
}
