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

// clientAddress is an address of the machine on which the volumes are mounted. The agent does not
// export to loopback addresses.
const clientAddress = "10.79.0.1"

// suite is the Debian release of the host that the tarball is installed on.
const suite = "bookworm"

// packages of that host.
const packages = "systemd,systemd-sysv,dbus,nfs-kernel-server,nfs-common,btrfs-progs,iproute2,procps,kmod,less"

// recipe returns the arguments of debootstrap.
func recipe(packages string) []string {
	return []string{"--variant=minbase", "--include=" + packages, suite}
}

// debianRoot returns the path of the Debian root of this machine, which may not exist yet.
func debianRoot(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	assert.NilError(t, err)
	return filepath.Join(cache, "btrfs-nfs-csi", rootName(recipe(packages)))
}

// rootName depends on the recipe, so that a cached root is not used for other packages.
func rootName(recipe []string) string {
	return fmt.Sprintf("debian-%s-%.6x", suite, sha256.Sum256([]byte(strings.Join(recipe, "\n"))))
}

// unpack returns the directory of the tarball that an environment variable names.
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

// host is a booted Debian with systemd as process 1, in a container on this machine's kernel and in
// its network.
type host struct {
	t *testing.T
	*container
}

type container struct {
	arguments []string // of systemd-nspawn
	log       string
	device    string // an empty block device
	nspawn    *exec.Cmd
	leader    string
	ended     chan struct{}
}

// boot starts systemd in a root directory, with additional options of systemd-nspawn.
func boot(t *testing.T, root string, options ...string) *host {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk")
	assert.NilError(t, os.WriteFile(image, nil, 0o600))
	assert.NilError(t, os.Truncate(image, 64<<30))
	device := strings.TrimSpace(command(t, "losetup", "-f", "--show", image))
	t.Cleanup(func() { command(t, "losetup", "-d", device) })

	arguments := append([]string{
		"--register=no", "--keep-unit", "--capability=all", "--directory=" + root, "--bind=" + device, "--bind=/sys/fs/btrfs", // the rest of /sys is read-only in a container
		"--console=pipe", "--boot",
	}, options...)
	h := &host{t, &container{arguments: append(arguments, "systemd.unit=multi-user.target"), log: filepath.Join(t.TempDir(), "console"), device: device}}
	t.Cleanup(h.stop)
	h.on()
	h.waitUntilBooted()
	return h
}

// on starts process 1, and waits until it accepts commands.
func (h *host) on() {
	h.t.Helper()
	console, err := os.OpenFile(h.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	assert.NilError(h.t, err)
	defer console.Close()
	nspawn, ended := exec.Command("systemd-nspawn", h.arguments...), make(chan struct{})
	nspawn.Stdout, nspawn.Stderr = console, console
	assert.NilError(h.t, nspawn.Start())
	h.nspawn, h.leader, h.ended = nspawn, "", ended
	go func() {
		_ = nspawn.Wait()
		close(ended)
	}()
	h.waitFor("systemd", func() bool {
		children, err := exec.Command("pgrep", "-P", fmt.Sprint(nspawn.Process.Pid)).Output()
		h.leader = strings.TrimSpace(string(children))
		if err != nil || h.leader == "" {
			return false
		}
		_, err = h.try("systemctl list-jobs")
		return err == nil
	})
}

func (h *host) waitUntilBooted() {
	h.t.Helper()
	h.waitFor("the booted system", func() bool {
		state, _ := h.try("systemctl is-system-running")
		return strings.Contains(state, "running") || strings.Contains(state, "degraded")
	})
}

func (h *host) stop() {
	if h.nspawn == nil {
		return
	}
	_ = h.nspawn.Process.Signal(os.Interrupt)
	// The child is process 1 of the container: the container ends with it.
	if h.leader != "" {
		_ = exec.Command("kill", "-KILL", h.leader).Run()
	}
	<-h.ended
	if h.t.Failed() {
		console, _ := os.ReadFile(h.log)
		h.t.Logf("the host's console:\n%s", console)
	}
}

// in returns the host for a subtest.
func (h *host) in(t *testing.T) *host {
	of := *h
	of.t = t
	return &of
}

// try runs a shell command in the host and returns its output.
func (h *host) try(script string) (string, error) {
	out, err := exec.Command("nsenter", "-t", h.leader, "-m", "-u", "-i", "-n", "-p", "-r", "-w", "env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "sh", "-c", script).CombinedOutput()
	return string(out), err
}

// isPinned checks that the settings name the mounted pool, once.
func (h *host) isPinned() {
	h.t.Helper()
	assert.Equal(h.t, h.run("sed -n 's/^AGENT_POOL_ID=//p' /etc/btrfs-nfs-agent/agent.env"), h.run("cat /srv/btrfs/.agent/id"))
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
	}, poll.WithTimeout(5*time.Minute), poll.WithDelay(200*time.Millisecond))
}
