//go:build release

package release

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// documents returns all documents in git.
func documents(t *testing.T) []string {
	t.Helper()
	names := strings.Fields(command(t, "git", "-C", root, "ls-files", "*.md"))
	assert.Assert(t, len(names) > 10, "%v", names)
	return names
}

var (
	fences  = regexp.MustCompile("(?ms)^```.*?^```")
	links   = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	unlink  = regexp.MustCompile("[^a-z0-9 _-]")
)

// Every link to a file or heading of this repository has a target. The test does not follow other
// links, because it has no network.
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

// foreign lists texts in the troubleshooting guide that come from other programs.
var foreign = []string{
	`secrets "…" is forbidden`, "updates to parameters are forbidden", "could not find the requested resource", `no matches for kind "VolumeSnapshotClass"`, "violates PodSecurity",
	"Startup probe failed … 500", "request from insecure port", "access denied by server", "Connection refused", "No route to host", "No such file or directory", "Operation not permitted",
	"permission denied", "Stale file handle", "disk I/O error", "database is locked", "Disk quota exceeded", "Protocol not supported",
}

// The troubleshooting guide quotes messages in headings and in the first column of tables. Each is
// in the source of a program of this project, or in the list of messages of others.
func TestQuotedErrors(t *testing.T) {
	var code strings.Builder
	for _, name := range strings.Fields(command(t, "git", "-C", root, "ls-files", "*.go", "*.sh", "*.service", "helm")) {
		if !strings.HasSuffix(name, "_test.go") {
			code.WriteString(text(t, name))
		}
	}
	document := fences.ReplaceAllString(text(t, "docs/troubleshooting.md"), "")
	quoted := regexp.MustCompile("`([^`]+)`")
	found := 0
	for _, symptom := range regexp.MustCompile(`(?m)^(?:### .*|\| .*? \|)`).FindAllString(document, -1) {
		for _, match := range quoted.FindAllStringSubmatch(symptom, -1) {
			if slices.Contains(foreign, match[1]) {
				continue
			}
			found++
			for part := range strings.SplitSeq(match[1], "…") {
				assert.Check(t, strings.Contains(code.String(), strings.Trim(part, " ")), "no program says %q", match[1])
			}
		}
	}
	assert.Assert(t, found > 30, "%d", found)
}

// anchors returns the anchors of headings, in GitHub's format.
func anchors(document string) map[string]bool {
	found := map[string]bool{}
	for _, match := range heading.FindAllStringSubmatch(fences.ReplaceAllString(document, ""), -1) {
		found[strings.ReplaceAll(unlink.ReplaceAllString(strings.ToLower(match[1]), ""), " ", "-")] = true
	}
	return found
}

// Every command of this project in a document exists, with every flag that the document shows. The
// test asks the program.
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

// output matches a block of text, which is output of programs.
var output = regexp.MustCompile("(?ms)^ *```text$.*?^ *```$")

// shell returns the code in a document: blocks of commands, and text between backquotes.
func shell(document string) string {
	document = output.ReplaceAllString(document, "")
	code := strings.Join(fences.FindAllString(document, -1), "\n")
	for _, match := range regexp.MustCompile("`[^`\n]+`").FindAllString(fences.ReplaceAllString(document, ""), -1) {
		code += "\n" + strings.Trim(match, "`")
	}
	return code
}

// subcommand returns the longest prefix of words that is a command.
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

// Every block of commands in the documents runs on a Debian in the lab (TestOnDebian) or in the
// test that it names, or has a reason why it does not run.
func TestBlocksOfCommands(t *testing.T) {
	tests := command(t, "sh", "-c", "cd "+root+" && git ls-files '*_test.go' | xargs cat")
	seen := 0
	for _, document := range handbook {
		for _, b := range blocks(t, document) {
			seen++
			if b.runBy != "" {
				assert.Check(t, is.Contains(tests, "func "+b.runBy+"(t "), "%v", b)
				assert.Check(t, !strings.Contains(b.runBy, "Rehearsal"), "make test skips it: %v", b)
			}
		}
	}
	assert.Assert(t, seen > 15, "%d blocks", seen)
}

// A document that has commands is in the handbook, and has them in fences: blocks does not find a
// block that is only indented.
func TestHandbookIsComplete(t *testing.T) {
	for _, name := range documents(t) {
		if len(blocks(t, name)) > 0 {
			assert.Check(t, slices.Contains(handbook, name), name)
		}
		prose := regexp.MustCompile("(?ms)^ *```.*?^ *```").ReplaceAllString(text(t, name), "")
		for _, m := range regexp.MustCompile(`(?m)(?:\A|\n\n) {4,}\S.*$`).FindAllString(prose, -1) {
			t.Errorf("%s: not in a fence: %s", name, strings.TrimSpace(m))
		}
	}
}

// The package map in docs/architecture.md has every package that ships, and imports point down in
// it.
func TestPackageMap(t *testing.T) {
	_, maps, _ := strings.Cut(text(t, "docs/architecture.md"), "<!-- package map: begin -->\n")
	maps, _, _ = strings.Cut(maps, "\n<!-- package map: end -->")
	title := regexp.MustCompile("^\\| .*\\(`([a-z]+)/`\\) \\|")
	row := regexp.MustCompile(`(?m)^\| (\d+)\. (.*?) \|`)
	quoted := regexp.MustCompile("`([a-z0-9/-]+)`")
	seen := 0
	for table := range strings.SplitSeq(maps, "\n\n") {
		named := title.FindStringSubmatch(table)
		if named == nil {
			continue
		}
		seen++
		module := named[1]
		rows := map[string]string{}
		for _, match := range row.FindAllStringSubmatch(table, -1) {
			for _, name := range quoted.FindAllStringSubmatch(match[2], -1) {
				assert.Check(t, rows[name[1]] == "", "%s: the package map has %s twice", module, name[1])
				rows[name[1]] = match[1]
			}
		}
		list := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./cmd/...", "./internal/...")
		list.Dir = filepath.Join(root, module)
		list.Env = append(os.Environ(), "GOWORK=off")
		out, err := list.Output()
		assert.NilError(t, err)
		prefix := "github.com/btrfs-nfs-csi/btrfs-nfs-csi/" + module + "/"
		for line := range strings.Lines(string(out)) {
			names := strings.Fields(line)
			importer := strings.TrimPrefix(strings.TrimPrefix(names[0], prefix), "internal/")
			assert.Check(t, rows[importer] != "", "%s: the package map lacks %s", module, importer)
			for _, name := range names[1:] {
				imported, ours := strings.CutPrefix(name, prefix)
				imported = strings.TrimPrefix(imported, "internal/")
				below := rows[importer] < rows[imported] // one digit each
				assert.Check(t, !ours || below, "%s: %s imports %s, which is not below it", module, importer, imported)
			}
		}
	}
	assert.Equal(t, seen, 3)
}

// Every document that a hint, a description or a comment names exists.
func TestDocumentsNamedInCode(t *testing.T) {
	files := command(t, "git", "-C", root, "ls-files", "*.go", "*.sh", "*.env", "*.yaml", "*.mk", "Makefile")
	seen := 0
	for _, name := range strings.Fields(files) {
		for _, document := range regexp.MustCompile(`\bdocs/[a-z/-]+\.md\b`).FindAllString(text(t, name), -1) {
			seen++
			_, err := os.Stat(filepath.Join(root, document))
			assert.Check(t, err, name)
		}
	}
	assert.Assert(t, seen > 50, "%d", seen)
}

// Every function, type or test that a document names with its file is in that file: `Name` in
// `dir/file.go`.
func TestNamesInDocuments(t *testing.T) {
	named := regexp.MustCompile("`(\\w+)` (?:in|of) `([a-z0-9/_-]+/[a-z0-9_]+\\.go)`")
	seen := 0
	for _, name := range documents(t) {
		for _, match := range named.FindAllStringSubmatch(text(t, name), -1) {
			seen++
			declared := regexp.MustCompile(`(?m)^(?:func (?:\([^)]*\) )?|type )` + match[1] + `\b`)
			assert.Check(t, declared.MatchString(text(t, match[2])), "%s: %s", name, match[0])
		}
	}
	assert.Assert(t, seen > 15, "%d", seen)
}

// The install commands and values of README.md are those of the quick start, which tests run.
func TestInstallCommandsOfReadme(t *testing.T) {
	_, part, _ := strings.Cut(text(t, "README.md"), "\n## Install\n")
	part, _, _ = strings.Cut(part, "\n## ")
	fenced := regexp.MustCompile("(?ms)^```\\w*\n(.*?)^```$").FindAllStringSubmatch(part, -1)
	assert.Assert(t, is.Len(fenced, 2))
	shown := strings.Split(strings.TrimSpace(fenced[0][1]), "\n")
	assert.Assert(t, is.Len(shown, 5))
	document := text(t, "docs/quickstart.md")
	for _, block := range append(shown, fenced[1][1]) {
		assert.Check(t, is.Contains(document, block))
	}
}

// Every make target that a document names exists.
func TestTargetsInDocuments(t *testing.T) {
	makefiles := command(t, "sh", "-c", "cd "+root+" && git ls-files Makefile '*.mk' | xargs cat")
	seen := 0
	for _, name := range documents(t) {
		for _, m := range target.FindAllStringSubmatch(shell(text(t, name)), -1) {
			seen++
			assert.Check(t, regexp.MustCompile(`(?m)^`+m[2]+`:( |$)`).MatchString(makefiles), "%s: make %s", name, m[2])
		}
	}
	assert.Assert(t, seen > 30, "%d targets", seen)
}

// Each command in a line of text runs in a test or has a reason why it does not.
func TestCommandsInLines(t *testing.T) {
	shown := inlineCommands(t)
	assert.Assert(t, len(shown) > 30, "%v", shown)
	for name := range notRun {
		assert.Check(t, slices.Contains(shown, name), "no document has %s any more", name)
	}
}

// docs/metrics.md lists exactly the agent's metrics.
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

// The same for controller and node.
func TestMetricsDocumentOfDrivers(t *testing.T) {
	_, part, _ := strings.Cut(text(t, "docs/metrics.md"), "## Controller and node")
	part, _, _ = strings.Cut(part, "\n## ")
	inCode := map[string]bool{}
	for _, source := range []string{"shared/csiserver/metrics.go", "node/internal/driver/metrics.go"} {
		for _, match := range regexp.MustCompile(`(?:Subsystem: "([a-z]+)", )?Name: "([a-z_]+)"`).FindAllStringSubmatch(text(t, source), -1) {
			inCode[strings.TrimPrefix(match[1]+"_"+match[2], "_")] = true
		}
	}
	assert.Assert(t, len(inCode) >= 8, "%v", inCode)
	inDocument := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| (`[a-z_`, ]+) \\|").FindAllStringSubmatch(part, -1) {
		for _, name := range strings.Split(row[1], ", ") {
			inDocument[strings.Trim(name, "`")] = true
		}
	}
	assert.DeepEqual(t, inDocument, inCode)
}

// The queries in the document, and the chart's alerts and panels, use metrics that exist.
func TestQueriesAskForMetricsThatExist(t *testing.T) {
	document := text(t, "docs/metrics.md")
	known := map[string]bool{}
	agent, drivers, _ := strings.Cut(document, "## Controller and node")
	for prefix, part := range map[string]string{"btrfs_nfs_agent_": agent, "btrfs_nfs_csi_": drivers} {
		for _, name := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(part, -1) {
			known[prefix+name[1]] = true
			for _, suffix := range []string{"_bucket", "_sum", "_count"} { // of a histogram
				known[prefix+name[1]+suffix] = true
			}
		}
	}
	queries := document + command(t, "sh", "-c", "cd "+root+" && git ls-files helm | grep -v _test | xargs cat")
	asked := regexp.MustCompile(`\bbtrfs_nfs_(?:agent|csi)_[a-z_]+`).FindAllString(queries, -1)
	assert.Assert(t, len(asked) > 20, "%v", asked)
	for _, name := range asked {
		assert.Check(t, known[name] || strings.HasSuffix(name, "_"), "%s is no metric", name)
	}
}
