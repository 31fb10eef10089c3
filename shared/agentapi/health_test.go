package agentapi

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// The table in docs/health.md lists exactly the reasons that an agent gives, and the one that the
// controller adds.
func TestReasonsOfDocument(t *testing.T) {
	source, err := os.ReadFile("health.go")
	assert.NilError(t, err)
	inCode := []string{"AgentUnreachable"}
	for _, m := range regexp.MustCompile(`(?m)^\tReason\w+ += "(\w+)"`).FindAllStringSubmatch(string(source), -1) {
		inCode = append(inCode, m[1])
	}
	assert.Assert(t, len(inCode) > 10, "%v", inCode)
	document, err := os.ReadFile("../../docs/health.md")
	assert.NilError(t, err)
	_, table, _ := strings.Cut(string(document), "\n## Of the agent\n")
	table, _, _ = strings.Cut(table, "\n## ")
	var documented []string
	for _, row := range regexp.MustCompile(`(?m)^\| ([A-Z][A-Za-z, ]+) \|`).FindAllStringSubmatch(table, -1) {
		documented = append(documented, strings.Split(row[1], ", ")...)
	}
	slices.Sort(documented)
	slices.Sort(inCode)
	assert.DeepEqual(t, documented, inCode)
}
