//go:build release

package release

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

const root = "../.."

// documents are all that git knows.
func documents(t *testing.T) []string {
	t.Helper()
	names := strings.Fields(command(t, "git", "-C", root, "ls-files", "*.md"))
	assert.Assert(t, len(names) > 10, "%v", names)
	return names
}

func text(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, name))
	assert.NilError(t, err)
	return string(content)
}

var (
	fences  = regexp.MustCompile("(?ms)^```.*?^```")
	links   = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	unlink  = regexp.MustCompile("[^a-z0-9 _-]")
)

// Every link to a file or a heading of ours leads there. Those to other places are not followed: there is no network in a test.
func TestLinks(t *testing.T) {
	for _, name := range documents(t) {
		for _, match := range links.FindAllStringSubmatch(fences.ReplaceAllString(text(t, name), ""), -1) {
			target, anchor, _ := strings.Cut(match[1], "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			file := name
			if target != "" {
				file = filepath.Join(filepath.Dir(name), target)
			}
			if _, err := os.Stat(filepath.Join(root, file)); err != nil {
				t.Errorf("%s: %s leads nowhere", name, match[1])
				continue
			}
			if anchor != "" && strings.HasSuffix(file, ".md") && !anchors(text(t, file))[anchor] {
				t.Errorf("%s: %s has no such heading", name, match[1])
			}
		}
	}
}

// anchors are made of headings as GitHub does.
func anchors(document string) map[string]bool {
	found := map[string]bool{}
	for _, match := range heading.FindAllStringSubmatch(fences.ReplaceAllString(document, ""), -1) {
		found[strings.ReplaceAll(unlink.ReplaceAllString(strings.ToLower(match[1]), ""), " ", "-")] = true
	}
	return found
}

// Every command of ours that a document shows exists, with every flag that it is shown with: the program is asked.
func TestCommandsInDocuments(t *testing.T) {
	program := filepath.Join(unpacked(t), "btrfs-nfs-agent")
	shown := regexp.MustCompile("btrfs-nfs-agent ([a-z][^`\n|;&#>]*)")
	seen := 0
	for _, name := range documents(t) {
		for _, match := range shown.FindAllStringSubmatch(shell(text(t, name)), -1) {
			words := strings.Fields(strings.Split(match[1], " # ")[0])
			path := subcommand(program, words)
			if len(path) == 0 {
				t.Errorf("%s: there is no command btrfs-nfs-agent %s", name, match[1])
				continue
			}
			help := command(t, program, append(path, "--help")...)
			for _, word := range words {
				if flag, _, _ := strings.Cut(word, "="); strings.HasPrefix(flag, "--") && len(flag) > 2 && flag != "--help" {
					assert.Check(t, is.Contains(help, flag), "%s: %s", name, match[0])
				}
			}
			seen++
		}
	}
	assert.Assert(t, seen > 20, "only %d commands were found", seen)
}

// shell is what stands in code: blocks, and between backquotes.
func shell(document string) string {
	code := strings.Join(fences.FindAllString(document, -1), "\n")
	for _, match := range regexp.MustCompile("`[^`\n]+`").FindAllString(fences.ReplaceAllString(document, ""), -1) {
		code += "\n" + strings.Trim(match, "`")
	}
	return code
}

// subcommand is the longest beginning of words that is a command.
func subcommand(program string, words []string) []string {
	var path []string
	for _, word := range words {
		if !regexp.MustCompile(`^[a-z-]+$`).MatchString(word) || strings.HasPrefix(word, "-") {
			break
		}
		out, err := exec.Command(program, append(append([]string{}, path...), word, "--help")...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "btrfs-nfs-agent "+strings.Join(append(append([]string{}, path...), word), " ")) {
			break
		}
		path = append(path, word)
	}
	return path
}

// The agent's metrics are in docs/metrics.md, and no others are.
func TestMetricsDocument(t *testing.T) {
	source := text(t, "agent/internal/metrics/store.go")
	document := text(t, "docs/metrics.md")
	part, _, _ := strings.Cut(document, "## Controller and node")
	names := regexp.MustCompile(`(?:gauge|counter)\("([a-z_]+)", "`).FindAllStringSubmatch(source, -1)
	assert.Assert(t, len(names) > 20)
	known := map[string]bool{"http_requests_total": true, "http_request_duration_seconds": true, "build_info": true}
	for _, name := range names {
		known[name[1]] = true
		assert.Check(t, is.Contains(part, "| `"+name[1]+"` |"))
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|").FindAllStringSubmatch(part, -1) {
		assert.Check(t, known[row[1]], "%s is no metric", row[1])
	}
}
