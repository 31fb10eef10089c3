// Package charttest tests the Helm chart: what it renders, with Helm 3 and with Helm 4, and what
// its schema rejects.
package charttest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/golden"
	"sigs.k8s.io/yaml"
)

const chartDir = "../btrfs-nfs-csi"

// valueSets are the files in values/, by name. The set "default" is empty.
func valueSets(t *testing.T) map[string]map[string]any {
	t.Helper()
	files, err := filepath.Glob("values/*.yaml")
	assert.NilError(t, err)
	assert.Assert(t, len(files) > 0)
	sets := map[string]map[string]any{}
	for _, file := range files {
		sets[strings.TrimSuffix(filepath.Base(file), ".yaml")] = readYAML(t, file)
	}
	return sets
}

func readYAML(t *testing.T, file string) map[string]any {
	t.Helper()
	text, err := os.ReadFile(file)
	assert.NilError(t, err)
	var values map[string]any
	assert.NilError(t, yaml.Unmarshal(text, &values))
	return values
}

// TestRenders compares what the chart makes of each set of values with what is committed, so that
// a change of the chart shows as a change of manifests. `go test -update` writes them again.
func TestRenders(t *testing.T) {
	for name, values := range valueSets(t) {
		t.Run(name, func(t *testing.T) {
			rendered, err := renderHelm3(chartDir, testedKubernetes, values)
			assert.NilError(t, err)
			golden.Assert(t, rendered, "renders/"+name+".yaml")
		})
	}
}

// TestHelm4RendersTheSame holds the chart to what both versions of Helm understand.
func TestHelm4RendersTheSame(t *testing.T) {
	for name, values := range valueSets(t) {
		t.Run(name, func(t *testing.T) {
			three, err := renderHelm3(chartDir, testedKubernetes, values)
			assert.NilError(t, err)
			four, err := renderHelm4(chartDir, testedKubernetes, values)
			assert.NilError(t, err)
			assert.Equal(t, four, three)
		})
	}
}
