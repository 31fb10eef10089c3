package charttest

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// `make helm-generate` writes the README.
func TestReadmeIsCurrent(t *testing.T) {
	made, err := exec.CommandContext(t.Context(), "go", "run", "./cmd/readme").Output()
	assert.NilError(t, err)
	committed, err := os.ReadFile(chartDir + "/README.md")
	assert.NilError(t, err)
	assert.Assert(t, string(made) == string(committed), "README.md is stale: make helm-generate")
}

// Every key of the tables has a description. Images need none.
func TestEverythingIsDescribed(t *testing.T) {
	readme, err := os.ReadFile(chartDir + "/README.md")
	assert.NilError(t, err)
	rows := 0
	for line := range strings.Lines(string(readme)) {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		rows++
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		description := strings.TrimSpace(cells[len(cells)-1])
		if !strings.Contains(cells[0], ".image.") {
			assert.Check(t, description != "" && description != "|", line)
		}
	}
	assert.Check(t, is.Equal(rows > 100, true), "%d rows", rows)
}
