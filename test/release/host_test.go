//go:build release || lab

package release

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"
)

// suite of the host that the tarball is installed on.
const suite = "bookworm"

// packages of that host.
const packages = "systemd,systemd-sysv,dbus,nfs-kernel-server,nfs-common,btrfs-progs,iproute2,procps,kmod,less"

// recipe is what debootstrap is told.
func recipe(packages string) []string {
	return []string{"--variant=minbase", "--include=" + packages, suite}
}

// debianRoot is where the Debian root of this machine is, or will be.
func debianRoot(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	assert.NilError(t, err)
	return filepath.Join(cache, "btrfs-nfs-csi", rootName(recipe(packages)))
}

// rootName is another for each recipe, so that a root that was kept is not taken for one with other packages.
func rootName(recipe []string) string {
	return fmt.Sprintf("debian-%s-%.6x", suite, sha256.Sum256([]byte(strings.Join(recipe, "\n"))))
}

// unpack gives the directory in the tarball that a variable names.
func unpack(t *testing.T, variable string) string {
	t.Helper()
	archive := os.Getenv(variable)
	assert.Assert(t, archive != "", "%s names a tarball: run make release-test", variable)
	dir := t.TempDir()
	command(t, "tar", "-C", dir, "-xf", archive)
	names, err := filepath.Glob(dir + "/*")
	assert.NilError(t, err)
	assert.Equal(t, len(names), 1)
	return names[0]
}

// host is a booted Debian: its own systemd as process 1, in a container on this machine's kernel and in its network.
type host struct {
	t      *testing.T
	nspawn *exec.Cmd
	log    string
	leader string
	device string // an empty block device
}

// boot starts systemd in a root directory, with further options of systemd-nspawn.
func boot(t *testing.T, root string, options ...string) *host {
	t.Helper()
	h := &host{t: t, log: filepath.Join(t.TempDir(), "console")}
	image := filepath.Join(t.TempDir(), "disk")
	assert.NilError(t, os.WriteFile(image, nil, 0o600))
	assert.NilError(t, os.Truncate(image, 64<<30))
	h.device = strings.TrimSpace(command(t, "losetup", "-f", "--show", image))
	t.Cleanup(func() { command(t, "losetup", "-d", h.device) })

	console, err := os.Create(h.log)
	assert.NilError(t, err)
	defer console.Close()
	args := append([]string{
		"--register=no", "--keep-unit", "--capability=all", "--directory=" + root, "--bind=" + h.device, "--bind=/sys/fs/btrfs", // the rest of /sys is for reading in a container
		"--console=pipe", "--boot",
	}, options...)
	h.nspawn = exec.Command("systemd-nspawn", append(args, "systemd.unit=multi-user.target")...)
	h.nspawn.Stdout, h.nspawn.Stderr = console, console
	assert.NilError(t, h.nspawn.Start())
	t.Cleanup(h.stop)
	h.waitFor("systemd", func() bool {
		children, err := exec.Command("pgrep", "-P", fmt.Sprint(h.nspawn.Process.Pid)).Output()
		h.leader = strings.TrimSpace(string(children))
		if err != nil || h.leader == "" {
			return false
		}
		state, _ := h.try("systemctl is-system-running")
		return strings.Contains(state, "running") || strings.Contains(state, "degraded")
	})
	return h
}

func (h *host) stop() {
	_ = h.nspawn.Process.Signal(os.Interrupt)
	// The child is process 1 of the container: with it everything in it ends.
	if h.leader != "" {
		_ = exec.Command("kill", "-KILL", h.leader).Run()
	}
	_ = h.nspawn.Wait()
	if h.t.Failed() {
		console, _ := os.ReadFile(h.log)
		h.t.Logf("the host's console:\n%s", console)
	}
}

// in is the host for a subtest.
func (h *host) in(t *testing.T) *host {
	of := *h
	of.t = t
	return &of
}

// try runs a shell command in the host and gives all that it prints.
func (h *host) try(script string) (string, error) {
	out, err := exec.Command("nsenter", "-t", h.leader, "-m", "-u", "-i", "-n", "-p", "-r", "-w", "env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "sh", "-c", script).CombinedOutput()
	return string(out), err
}

func (h *host) run(script string) string {
	h.t.Helper()
	out, err := h.try(script)
	if err != nil {
		journal, _ := h.try("journalctl --no-pager -u btrfs-nfs-agent | tail -40")
		h.t.Fatalf("%s: %v\n%s\njournal:\n%s", script, err, out, journal)
	}
	return out
}

func (h *host) waitFor(what string, there func() bool) {
	h.t.Helper()
	poll.WaitOn(h.t, func(poll.LogT) poll.Result {
		if !there() {
			return poll.Continue("%s is not there", what)
		}
		return poll.Success()
	}, poll.WithTimeout(180*time.Second), poll.WithDelay(200*time.Millisecond))
}
