package main

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/cli"
)

func cliDocument(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../../docs/cli.md")
	assert.NilError(t, err)
	return string(text)
}

// docs/cli.md contains exactly the subcommands of the groups that talk to an agent.
func TestCommandsOfDocument(t *testing.T) {
	_, table, _ := strings.Cut(cliDocument(t), "\n## Commands\n")
	table, _, _ = strings.Cut(table, "\n```")
	documented := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]*`) \\|").FindAllStringSubmatch(table, -1) {
		group := ""
		for name := range strings.SplitSeq(row[1], ", ") {
			words := strings.Fields(strings.Trim(name, "`"))
			switch {
			case len(words) > 1 && words[1] == strings.ToLower(words[1]) && group == "":
				group = words[0]
			case group != "" && words[0] != group:
				words = append([]string{group}, words...)
			}
			documented[commandOf(words)] = true
		}
	}
	inCode := map[string]bool{}
	for _, command := range cli.Commands() {
		if !command.HasSubCommands() {
			inCode[command.Name()] = true
		}
		for _, sub := range command.Commands() {
			inCode[command.Name()+" "+sub.Name()] = true
		}
	}
	assert.DeepEqual(t, slices.Sorted(maps.Keys(documented)), slices.Sorted(maps.Keys(inCode)))
}

// commandOf removes arguments, flags, and the types of a task.
func commandOf(words []string) string {
	end := slices.IndexFunc(words, func(w string) bool { return w != strings.ToLower(w) || strings.HasPrefix(w, "-") })
	if end < 0 {
		end = len(words)
	}
	return strings.Join(words[:min(end, 2)], " ")
}

// Each command in a document exists.
func TestCommandsOfAllDocuments(t *testing.T) {
	files, err := filepath.Glob("../../../docs/*.md")
	assert.NilError(t, err)
	tasks, err := filepath.Glob("../../../docs/operations/*.md")
	assert.NilError(t, err)
	files = append(files, tasks...)
	shown := regexp.MustCompile("btrfs-nfs-agent ([a-z][a-z -]*)")
	root, found := rootCommand(), 0
	root.InitDefaultCompletionCmd()
	for _, file := range append(files, "../../../README.md", "../../../SECURITY.md", "../../../CONTRIBUTING.md") {
		text, err := os.ReadFile(file)
		assert.NilError(t, err)
		for _, code := range regexp.MustCompile("(?ms)^ *```.*?^ *```|`[^`\n]+`").FindAllString(string(text), -1) {
			if strings.HasPrefix(strings.TrimSpace(code), "```text") {
				continue // output of programs
			}
			for _, m := range shown.FindAllStringSubmatch(code, -1) {
				words := strings.Fields(commandOf(strings.Fields(m[1])))
				command, rest, err := root.Find(words)
				missing := err != nil || command.Parent() == nil || command.HasSubCommands() && len(rest) > 0
				assert.Check(t, !missing, "%s: %q", file, m[0])
				found++
			}
		}
	}
	assert.Assert(t, found > 50, "%d", found)
}

// Every flag in docs/cli.md belongs to a command that talks to an agent, or manages the host.
func TestFlagsOfDocument(t *testing.T) {
	known := map[string]bool{"--help": true}
	walk(rootCommand(), func(c *cobra.Command) {
		add := func(f *pflag.Flag) {
			known["--"+f.Name] = true
			if f.Shorthand != "" {
				known["-"+f.Shorthand] = true
			}
		}
		c.LocalFlags().VisitAll(add)
		c.InheritedFlags().VisitAll(add)
	})
	document := cliDocument(t)
	shown := regexp.MustCompile("[`\\s](--?[a-z][a-z-]*)\\b").FindAllStringSubmatch(document, -1)
	assert.Assert(t, len(shown) > 20, "%v", shown)
	for _, m := range shown {
		// --sort -used is a column.
		assert.Check(t, known[m[1]] || strings.Contains(document, "--sort "+m[1]), "no command has %s", m[1])
	}
}

func walk(c *cobra.Command, visit func(*cobra.Command)) {
	visit(c)
	for _, sub := range c.Commands() {
		walk(sub, visit)
	}
}

// The table of exit codes in docs/cli.md has those of the code, and no others.
func TestExitCodesOfDocument(t *testing.T) {
	source, err := os.ReadFile("../../internal/cli/errors.go")
	assert.NilError(t, err)
	inCode := []string{"0"}
	for _, m := range regexp.MustCompile(`(?m)^\tExit[A-Z]\w+ += (\d+)`).FindAllStringSubmatch(string(source), -1) {
		inCode = append(inCode, m[1])
	}
	_, table, _ := strings.Cut(cliDocument(t), "\n## Exit codes\n")
	table, _, _ = strings.Cut(table, "\n## ")
	var documented []string
	for _, m := range regexp.MustCompile(`(?m)^\| (\d+) \|`).FindAllStringSubmatch(table, -1) {
		documented = append(documented, m[1])
	}
	assert.Assert(t, len(inCode) > 8)
	assert.DeepEqual(t, documented, inCode)
	assert.Assert(t, exitFindings == cli.ExitFailed && exitTrouble == cli.ExitUsage, "the table says so of check, doctor and migrate")
}
