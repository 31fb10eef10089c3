package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

func TestFigures(t *testing.T) {
	second := time.Second
	f := figures{claims: []claims{{100, 20 * second, 10 * second}}, volume: []time.Duration{3 * second, second, 2 * second}, emptyDir: []time.Duration{second}}
	text := f.markdown()
	assert.Check(t, is.Contains(text, "| 100 | 20.0 s | 5.0 | 10.0 s | 10.0 |\n"))
	assert.Check(t, is.Contains(text, "| with a new volume | 2.00 s | 3.00 s | 3.00 s |\n"))
}

func TestOnlyOurSectionIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "doc.md")
	assert.NilError(t, os.WriteFile(path, []byte("before\n"+markerBegin+"old\n"+markerEnd+"after\n"), 0o600))
	assert.NilError(t, writeInto(path, "new\n"))
	text, err := os.ReadFile(path)
	assert.NilError(t, err)
	assert.Equal(t, string(text), "before\n"+markerBegin+"\nnew\n\n"+markerEnd+"after\n")
	assert.NilError(t, os.WriteFile(path, []byte("nothing\n"), 0o600))
	assert.ErrorContains(t, writeInto(path, "new\n"), "has no lines")
}
