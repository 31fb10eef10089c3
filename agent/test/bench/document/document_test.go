package document

import (
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"
)

// Each section is replaced by itself, even if its name starts with that of another.
func TestWriteInto(t *testing.T) {
	const other = "<!-- bench-nfs: begin -->\nold\n<!-- bench-nfs: end -->\n"
	path := filepath.Join(t.TempDir(), "doc.md")
	assert.NilError(t, os.WriteFile(path, []byte("# Title\n"+other+"<!-- bench: begin -->\nold\n<!-- bench: end -->\ntail\n"), 0o600))
	assert.NilError(t, WriteInto(path, "bench", "new\n"))
	content, err := os.ReadFile(path)
	assert.NilError(t, err)
	assert.Equal(t, string(content), "# Title\n"+other+"<!-- bench: begin -->\n\nnew\n\n<!-- bench: end -->\ntail\n")
	assert.NilError(t, WriteInto(path, "bench-nfs", "new\n"))
	content, err = os.ReadFile(path)
	assert.NilError(t, err)
	assert.Equal(t, string(content), "# Title\n<!-- bench-nfs: begin -->\n\nnew\n\n<!-- bench-nfs: end -->\n<!-- bench: begin -->\n\nnew\n\n<!-- bench: end -->\ntail\n")
	for _, without := range []string{"no markers", ""} {
		assert.NilError(t, os.WriteFile(path, []byte(without), 0o600))
		assert.ErrorContains(t, WriteInto(path, "bench", "new"), "bench: begin")
		assert.ErrorContains(t, WriteInto(path, "bench", "new"), "go between")
	}
}
