//go:build release || lab

package release

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
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

// block is a fenced block of commands in a document with its mark. The mark names the reason why
// the block is not run, or the other test that runs it.
type block struct {
	document, script string
	notRun           string // reason
	runBy            string // name of the test
}

// handbook lists all documents with commands. Their blocks run in this order.
var handbook = []string{
	"docs/quickstart.md", "docs/installation.md", "docs/cli.md", "docs/api.md", "docs/health.md",
	"docs/operations.md", "docs/operations/volumes.md", "docs/operations/snapshots.md",
	"docs/operations/databases.md", "docs/operations/fsync.md", "docs/operations/defragment.md",
	"docs/operations/quotas.md", "docs/operations/limit-tenants.md",
	"docs/operations/rotate-token.md", "docs/operations/copies-on-the-server.md",
	"docs/operations/full-pool.md", "docs/operations/quarantine.md",
	"docs/operations/check-pool.md", "docs/operations/backup.md",
	"docs/operations/other-programs.md", "docs/operations/scrub-and-balance.md",
	"docs/operations/replace-disk.md", "docs/operations/encrypted-disks.md",
	"docs/operations/two-pools.md", "docs/operations/pool-id.md", "docs/operations/move-pool.md",
	"docs/operations/disaster-recovery.md", "docs/operations/nfs-server.md",
	"docs/operations/sign-handles.md", "docs/operations/change-engine.md", "docs/two-hosts.md",
	"docs/troubleshooting.md", "docs/upgrade.md", "docs/architecture.md", "docs/crash-tests.md", "docs/configuration.md",
	"docs/metrics.md", "docs/security.md", "docs/release.md", "docs/roadmap.md", "README.md",
	"CONTRIBUTING.md", "SECURITY.md", "docs/benchmarks.md", "docs/benchmarks-method.md", "docs/conformance.md",
	"helm/btrfs-nfs-csi/README.md", "shared/lab/README.md", "test/e2e/README.md",
}

// mark follows a block, with or without an empty line in between.
var mark = regexp.MustCompile(`^\s*<!-- (?:not run by a test: (.+)|run by (\w+)) -->$`)

// blocks returns all blocks without a language, which are commands. Other blocks have one (text,
// yaml, ...).
func blocks(t *testing.T, document string) []block {
	t.Helper()
	var found []block
	var fence string // of the open block
	var last *block  // block that a mark may follow
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

// inline matches a command in a line of text: a program with arguments. A program without arguments
// is only a name. Commands of make do not run here, because they run the tests.
// TestTargetsInDocuments checks that the targets exist.
var inline = regexp.MustCompile(`^(?:sudo \S+ \S+|(?:btrfs-nfs-agent|curl|journalctl|cat|firewall-cmd|sha256sum|cosign|skopeo|rpc\.nfsd|exportfs|\./install\.sh|modprobe) \S+|(?:systemctl|kubectl|helm|apt|dnf|pacman|zypper) \S+ \S+|btrfs \S+ \S+ \S+)`)

// target matches the target of a make command. The words "can make up" in a message are not one.
var target = regexp.MustCompile(`(?m)(?:^\s*|sudo |[;&|] *)make ((?:[A-Z_]+=\S+ )*)([a-z][a-z0-9-]*)`)

// inlineCommands returns those in the handbook, each once.
func inlineCommands(t *testing.T) []string {
	t.Helper()
	var found []string
	for _, document := range handbook {
		prose := regexp.MustCompile("(?ms)^ *```.*?^ *```").ReplaceAllString(text(t, document), "")
		for _, m := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(prose, -1) {
			if inline.MatchString(m[1]) && !target.MatchString(m[1]) && !slices.Contains(found, m[1]) {
				found = append(found, m[1])
			}
		}
	}
	return found
}

// notRun maps the commands in lines of text that TestOnDebian does not run to the reason.
var notRun = map[string]string{
	"sudo ./install.sh uninstall":                             "TestInstall does",
	"apt install nfs-kernel-server":                           "needs the network; debootstrap has done so",
	"apt install linux-image-amd64":                           "needs the network",
	"dnf install nfs-utils":                                   "for Fedora",
	"pacman -S nfs-utils":                                     "for Arch",
	"zypper install nfs-kernel-server":                        "for openSUSE",
	"modprobe nfsd":                                           "a container loads no modules",
	"kubectl describe pvc":                                    "needs a cluster",
	"kubectl get crd volumesnapshots.snapshot.storage.k8s.io": "needs a cluster",
	"btrfs filesystem resize DEVID:max":                       "needs a larger disk in place of another",
	"sudo btrfs-nfs-agent migrate":                            "TestMigrateCommand does",
	"btrfs-nfs-agent migrate":                                 "TestMigrateCommand does",
	"systemctl stop nfs-server":                               "a change of the engine, with settings between",
	"systemctl enable --now nfs-server":                       "a change of the engine, with settings between",
	"systemctl stop btrfs-nfs-agent":                          "a change of the engine, with settings between",
	"btrfs device stats -z":                                   "named; it is in a block, too",
	"btrfs-nfs-agent check":                                   "named; it is in a block, without an agent",
	"btrfs-nfs-agent check --repair":                          "named; it is in a block, without an agent",

	"btrfs property set -ts {volume}/data ro false":    "undoes what TestReadOnlySubvolume does",
	"btrfs-nfs-agent task start defragment --volume V": "the volume has a snapshot; TestTaskCommands does",

	"btrfs-nfs-agent export remove VOLUME ADDRESS": "asks first; upgradeUnderIO does, with --yes",

	"firewall-cmd --permanent --add-service=nfs --add-port=8080/tcp":                         "for Fedora",
	"sudo btrfs-nfs-agent migrate --dry-run":                                                 "TestMigrateCommand does",
	"sudo btrfs-nfs-agent migrate --undo":                                                    "TestMigrateCommand does",
	"btrfs-nfs-agent volume adopt-manifest VOLUME...":                                        "named; it is in a block, with its flags",
	"systemctl disable --now nfs-server; systemctl stop nfs-mountd; systemctl start nfsdcld": "a change of the engine, with settings between",
}
