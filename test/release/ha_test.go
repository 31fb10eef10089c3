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

// fenced returns the only block of a language in a document.
func fenced(t *testing.T, document, language string) string {
	t.Helper()
	found := regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```").FindAllStringSubmatch(text(t, document), -1)
	assert.Equal(t, len(found), 1, language)
	return found[0][1]
}

// The kernel's DRBD programs accept the DRBD resource of docs/two-hosts.md on both hosts.
func TestDRBDResource(t *testing.T) {
	file := filepath.Join(t.TempDir(), "btrfs.res")
	assert.NilError(t, os.WriteFile(file, []byte(fenced(t, "docs/two-hosts.md", "drbd")), 0o600))
	for _, host := range []string{"alpha", "beta"} {
		out := command(t, "unshare", "--uts", "sh", "-c", "hostname "+host+" && /usr/lib/drbd/drbdadm-84 -c "+file+" dump btrfs && /usr/lib/drbd/drbdadm-84 -c "+file+" -d up btrfs")
		assert.Assert(t, is.Contains(out, "--fencing=resource-and-stonith"))
		assert.Assert(t, is.Contains(out, "--protocol=C"))
	}
	for _, handler := range regexp.MustCompile(`"(/usr/lib/drbd/.*)"`).FindAllStringSubmatch(fenced(t, "docs/two-hosts.md", "drbd"), -1) {
		_, err := os.Stat(handler[1])
		assert.NilError(t, err)
	}
}

// cluster is a simulated Pacemaker cluster: a CIB, and the scheduler's result for it.
type cluster struct {
	t   *testing.T
	cib string
}

func (c *cluster) run(name string, args ...string) string {
	c.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "CIB_file="+c.cib)
	out, err := cmd.CombinedOutput()
	assert.NilError(c.t, err, "%s %v: %s", name, args, out)
	return string(out)
}

// simulate simulates an event and the scheduler's reaction. It returns the steps and the state
// after them.
func (c *cluster) simulate(event ...string) (steps []string, state string) {
	c.t.Helper()
	out := c.run("crm_simulate", append([]string{"-x", c.cib, "--simulate", "--save-output", c.cib + ".next"}, event...)...)
	assert.NilError(c.t, os.Rename(c.cib+".next", c.cib))
	transition, state, found := strings.Cut(out, "Revised Cluster Status:")
	assert.Assert(c.t, found, out)
	for _, match := range regexp.MustCompile(`(?m)^  \* (?:Resource action: +(\S+) +(promote|start|stop) (on \S+)|(Fencing \S+).*)$`).FindAllStringSubmatch(transition, -1) {
		steps = append(steps, strings.TrimSpace(strings.Join(match[1:], " ")))
	}
	return steps, state
}

// The Pacemaker configuration of docs/two-hosts.md is valid, and Pacemaker's scheduler acts as
// documented. It starts in order. After the loss of a host, it first fences that host and then
// starts everything on the other.
func TestPacemakerConfiguration(t *testing.T) {
	dir := t.TempDir()
	c := &cluster{t: t, cib: filepath.Join(dir, "cib.xml")}
	empty, err := exec.Command("cibadmin", "--empty").Output()
	assert.NilError(t, err)
	assert.NilError(t, os.WriteFile(c.cib, empty, 0o600))
	file := filepath.Join(dir, "cluster.crm")
	assert.NilError(t, os.WriteFile(file, []byte(fenced(t, "docs/two-hosts.md", "crm")), 0o600))
	// -F, because the agents of systemd units and fences are not on this machine.
	c.run("crm", "-F", "configure", "load", "update", file)
	c.simulate("--node-up", "alpha", "--node-up", "beta", "--quorum", "1")
	c.run("crm_verify", "--xml-file", c.cib)
	// DRBD's agent sets this score when the disks are in sync.
	for _, node := range []string{"alpha", "beta"} {
		c.run("crm_attribute", "-N", node, "-n", "master-drbd-btrfs", "-v", "10000", "-l", "reboot")
	}
	order := []string{"drbd-btrfs promote", "pool start", "nfsdcld start", "agent start", "nfs-server start", "address start"}
	steps, state := c.simulate()
	assert.DeepEqual(t, steps, on("alpha", order))
	assert.Assert(t, is.Contains(state, "Promoted: [ alpha ]"))

	// The pool has become read-only, which its monitor detects by writing: the whole group moves.
	assert.Assert(t, is.Contains(fenced(t, "docs/two-hosts.md", "crm"), "OCF_CHECK_LEVEL=20"))
	running, err := os.ReadFile(c.cib)
	assert.NilError(t, err)
	steps, _ = c.simulate("--op-inject", "pool_monitor_20000@alpha=1")
	assert.DeepEqual(t, starts(steps), on("beta", order))
	// Pacemaker sets a failed address again, and the server continues.
	assert.NilError(t, os.WriteFile(c.cib, running, 0o600))
	steps, _ = c.simulate("--op-inject", "address_monitor_10000@alpha=7")
	assert.DeepEqual(t, steps, []string{"address stop on alpha", "address start on alpha"})
	assert.NilError(t, os.WriteFile(c.cib, running, 0o600))

	steps, state = c.simulate("--node-fail", "alpha")
	assert.Equal(t, steps[0], "Fencing alpha")
	assert.DeepEqual(t, steps[1:], on("beta", order))
	assert.Assert(t, is.Contains(state, "OFFLINE: [ alpha ]"))

	// An administrator moves the service: the server stops while it has its address, so that clients
	// get the answers to completed requests.
	c.simulate("--node-up", "alpha")
	c.run("crm_attribute", "-N", "alpha", "-n", "master-drbd-btrfs", "-v", "10000", "-l", "reboot")
	c.run("crm_attribute", "-N", "beta", "-n", "standby", "-v", "on")
	steps, _ = c.simulate()
	stops := slices.DeleteFunc(slices.Clone(steps), func(s string) bool { return !strings.Contains(s, " stop ") || strings.HasPrefix(s, "fence-") })
	assert.DeepEqual(t, stops, []string{"nfs-server stop on beta", "address stop on beta", "agent stop on beta", "nfsdcld stop on beta", "pool stop on beta", "drbd-btrfs stop on beta"})
}

// starts returns the steps that start a resource or promote DRBD.
func starts(steps []string) []string {
	return slices.DeleteFunc(slices.Clone(steps), func(s string) bool { return strings.Contains(s, " stop ") })
}

func on(node string, steps []string) []string {
	var out []string
	for _, step := range steps {
		out = append(out, step+" on "+node)
	}
	return out
}
