//go:build release || lab

package release

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

const root = "../.."

func text(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, name))
	assert.NilError(t, err)
	return string(content)
}

// block is a fenced block of commands in a document, and the mark that says why it is not run as it stands, or by what other test.
type block struct {
	document, script string
	notRun           string // why
	runBy            string // a test
}

// handbook are the documents whose blocks are run, in this order. Benchmarks take the whole machine for a quarter of an hour, so that theirs are left out.
var handbook = []string{
	"docs/installation.md", "docs/cli.md", "docs/api.md", "docs/operations.md", "docs/troubleshooting.md", "docs/upgrade.md",
	"docs/architecture.md", "docs/configuration.md", "docs/metrics.md", "docs/security.md", "docs/release.md", "docs/roadmap.md", "README.md",
}

// mark follows a block, with or without an empty line between.
var mark = regexp.MustCompile(`^\s*<!-- (?:not run by a test: (.+)|run by (\w+)) -->$`)

// blocks are all blocks without a language: commands. What is none has one (text, yaml, ...).
func blocks(t *testing.T, document string) []block {
	t.Helper()
	var found []block
	var fence string // the open one
	var last *block  // that a mark may follow
	for line := range strings.Lines(text(t, document)) {
		line = strings.TrimSpace(line)
		switch {
		case fence == "" && strings.HasPrefix(line, "```"):
			fence, last = line, nil
			if fence == "```" {
				found = append(found, block{document: document})
			}
		case line == "```":
			if fence == "```" {
				last = &found[len(found)-1]
			}
			fence = ""
		case fence == "```":
			found[len(found)-1].script += line + "\n"
		case fence == "" && last != nil && line != "":
			if m := mark.FindStringSubmatch(line); m != nil {
				last.notRun, last.runBy = m[1], m[2]
			}
			last = nil
		}
	}
	return found
}

func (b block) String() string { return b.document + ": " + strings.TrimSpace(b.script) }
