package charttest

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	"sigs.k8s.io/yaml"
)

// One of the committed sets has each value of the chart. Without the value, it renders
// differently.
func TestEveryValueHasAnEffect(t *testing.T) {
	text, err := os.ReadFile(chartDir + "/values.yaml")
	assert.NilError(t, err)
	var defaults map[string]any
	assert.NilError(t, yaml.Unmarshal(text, &defaults))
	paths := leaves(nil, defaults)
	assert.Assert(t, len(paths) > 100, "only %d values", len(paths))
	whole := map[string]string{}
	for set, values := range valueSets(t) {
		whole[set], err = renderHelm3(chartDir, testedKubernetes, values)
		assert.NilError(t, err)
	}
	for _, path := range paths {
		shown := false
		for set, values := range valueSets(t) {
			if shown || !remove(values, path) {
				continue
			}
			// A set that does not render without a value shows its effect, too.
			text, err := renderHelm3(chartDir, testedKubernetes, values)
			shown = err != nil || text != whole[set]
		}
		assert.Check(t, shown, "%s: no set of values shows what it does", strings.Join(path, "."))
	}
}

// leaves are the paths of all values that are no maps, or empty ones.
func leaves(path []string, values map[string]any) [][]string {
	var out [][]string
	for _, key := range slices.Sorted(maps.Keys(values)) {
		at := append(slices.Clone(path), key)
		if nested, ok := values[key].(map[string]any); ok && len(nested) > 0 && key != "resources" && key != "sidecarResources" && key != "labels" {
			out = append(out, leaves(at, nested)...)
			continue
		}
		out = append(out, at)
	}
	return out
}

// remove takes the value at a path out of values; false if it is not there.
func remove(values map[string]any, path []string) bool {
	for _, key := range path[:len(path)-1] {
		nested, ok := values[key].(map[string]any)
		if !ok {
			return false
		}
		values = nested
	}
	last := path[len(path)-1]
	_, there := values[last]
	delete(values, last)
	return there
}
