package setup

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// apt runs apt-get. The options keep its state separate from the system's.
type apt struct{ options []string }

// machineApt uses the package sources of this machine.
func machineApt() apt { return apt{} }

// suiteApt uses the archive in this machine's sources, with another suite. Its lists are stored
// under dir.
func suiteApt(ctx context.Context, dir, suite string) (apt, error) {
	lists, parts := filepath.Join(dir, "lists"), filepath.Join(dir, "sources")
	for _, d := range []string{filepath.Join(lists, "partial"), parts, filepath.Join(dir, "cache/archives/partial")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return apt{}, err
		}
	}
	source, err := sourceFor(suite)
	if err != nil {
		return apt{}, err
	}
	if err := os.WriteFile(filepath.Join(parts, "lab.list"), []byte(source), 0o644); err != nil {
		return apt{}, err
	}
	a := apt{options: []string{
		"-o", "Dir::Etc::sourcelist=/dev/null", "-o", "Dir::Etc::sourceparts=" + parts,
		"-o", "Dir::State::lists=" + lists, "-o", "Dir::Cache=" + filepath.Join(dir, "cache"),
		"-o", "Acquire::Languages=none",
		"-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
	}}
	return a, aptGet(ctx, append(slices.Clone(a.options), "update", "-q")...)
}

// download downloads the newest version of packages to dir.
func (a apt) download(ctx context.Context, dir string, packages ...string) error {
	if len(a.options) == 0 {
		// The machine's lists may be missing, or too old to name a file that still exists.
		if err := a.downloadOnce(ctx, dir, packages); err == nil {
			return nil
		}
		if err := aptGet(ctx, "update", "-q"); err != nil {
			return err
		}
	}
	return a.downloadOnce(ctx, dir, packages)
}

func (a apt) downloadOnce(ctx context.Context, dir string, packages []string) error {
	args := append(slices.Clone(a.options), "-o", "APT::Sandbox::User=root", "download", "-q")
	cmd := exec.CommandContext(ctx, "apt-get", append(args, packages...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	return runQuietly(cmd)
}

// sourceFor returns the machine's source of its release, in one line (sources.list(5)), with the
// suite replaced.
func sourceFor(suite string) (string, error) {
	osRelease, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", err
	}
	codename := field(osRelease, "VERSION_CODENAME=")
	files, _ := filepath.Glob("/etc/apt/sources.list.d/*")
	for _, name := range append([]string{"/etc/apt/sources.list"}, files...) {
		data, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		find := findInList
		if strings.HasSuffix(name, ".sources") {
			find = findInSources
		}
		if options, uri := find(data, codename); uri != "" {
			return fmt.Sprintf("deb %s %s %s main\n", options, uri, suite), nil
		}
	}
	return "", fmt.Errorf("no source of %q in /etc/apt", codename)
}

// findInList reads one-line sources: deb [options] uri suite components.
func findInList(data []byte, codename string) (options, uri string) {
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] != "deb" {
			continue
		}
		f = f[1:]
		options = ""
		if end := slices.IndexFunc(f, func(s string) bool { return strings.HasSuffix(s, "]") }); len(f) > 0 && strings.HasPrefix(f[0], "[") && end >= 0 {
			options, f = strings.Join(f[:end+1], " "), f[end+1:]
		}
		if len(f) >= 3 && f[1] == codename && slices.Contains(f[2:], "main") {
			return options, f[0]
		}
	}
	return "", ""
}

// findInSources reads deb822 stanzas.
func findInSources(data []byte, codename string) (options, uri string) {
	for stanza := range bytes.SplitSeq(data, []byte("\n\n")) {
		uris, suites := strings.Fields(field(stanza, "URIs:")), strings.Fields(field(stanza, "Suites:"))
		types := strings.Fields(field(stanza, "Types:"))
		if len(uris) == 0 || !slices.Contains(suites, codename) || !slices.Contains(types, "deb") {
			continue
		}
		if key := field(stanza, "Signed-By:"); key != "" {
			options = "[signed-by=" + key + "]"
		}
		return options, uris[0]
	}
	return "", ""
}

// field returns the text after key at the start of a line.
func field(data []byte, key string) string {
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), key); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
