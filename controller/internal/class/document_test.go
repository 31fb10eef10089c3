package class

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// docs/configuration.md lists exactly the parameters and annotations that the code accepts.
func TestDocumentIsCurrent(t *testing.T) {
	text, err := os.ReadFile("../../../docs/configuration.md")
	assert.NilError(t, err)
	assert.DeepEqual(t, firstColumn(section(t, string(text), "StorageClass parameters")), sorted(knownParameters()))
	assert.DeepEqual(t, firstColumn(section(t, string(text), "Mutable parameters")), sorted(mutableKeys()))

	annotations := section(t, string(text), "Claim annotations")
	var documented []string
	for _, m := range regexp.MustCompile("`(?:"+strings.TrimSuffix(AnnotationPrefix, "/")+")?/([A-Za-z]+)`").FindAllStringSubmatch(annotations, -1) {
		documented = append(documented, m[1])
	}
	assert.DeepEqual(t, sorted(documented), sorted(append(keysOf(ofClaim), keyLabels)))
}

func section(t *testing.T, document, heading string) string {
	t.Helper()
	_, rest, found := strings.Cut(document, "\n## "+heading+"\n")
	assert.Assert(t, found, heading)
	part, _, _ := strings.Cut(rest, "\n## ")
	return part
}

// firstColumn returns the texts between backquotes in the first column of a table.
func firstColumn(section string) []string {
	var names []string
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]*`) \\|").FindAllStringSubmatch(section, -1) {
		for name := range strings.SplitSeq(row[1], ", ") {
			names = append(names, strings.Trim(name, "`"))
		}
	}
	return sorted(names)
}

func sorted(names []string) []string { return slices.Sorted(slices.Values(names)) }
