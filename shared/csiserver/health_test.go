package csiserver

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// The table lists exactly the conditions that an agent can report.
func TestEveryConditionHasAHealthType(t *testing.T) {
	source, err := os.ReadFile("../agentapi/health.go")
	assert.NilError(t, err)
	reasons := regexp.MustCompile(`(?m)^\tReason\w+ += "(\w+)"`).FindAllStringSubmatch(string(source), -1)
	assert.Assert(t, len(reasons) > 20, "%v", reasons)
	for _, m := range reasons {
		_, found := healthTypes[m[1]]
		assert.Check(t, found, m[1])
	}
	assert.Equal(t, len(healthTypes), len(reasons))
	assert.Equal(t, HealthType("OfANewerAgent"), degraded)
}

// docs/health.md has the same statuses.
func TestHealthTypesOfDocument(t *testing.T) {
	document, err := os.ReadFile("../../docs/health.md")
	assert.NilError(t, err)
	_, table, _ := strings.Cut(string(document), "\n## Of the agent\n")
	table, _, _ = strings.Cut(table, "\n## ")
	seen := 0
	for _, row := range regexp.MustCompile(`(?m)^\| ([A-Z][A-Za-z, ]+) \| ([A-Z_]+) \|`).FindAllStringSubmatch(table, -1) {
		for reason := range strings.SplitSeq(row[1], ", ") {
			seen++
			assert.Check(t, HealthType(reason).String() == row[2], "%s is %s in the document", reason, row[2])
		}
	}
	assert.Assert(t, seen > 15, "%d", seen)
}
