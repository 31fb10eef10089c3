//go:build release

package release

import (
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

// suite and packages of the host that the tarball is installed on.
const (
	suite    = "bookworm"
	packages = "systemd,systemd-sysv,dbus,nfs-kernel-server,nfs-common,btrfs-progs,iproute2,procps,kmod,less"
)

// debian is a Debian root made with debootstrap, once for a machine.
func debian(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	assert.NilError(t, err)
	root := filepath.Join(cache, "btrfs-nfs-csi", "debian-"+suite+"-1")
	if _, err := os.Stat(root); err == nil {
		return root
	}
	assert.NilError(t, os.MkdirAll(filepath.Dir(root), 0o755))
	making := root + ".new"
	assert.NilError(t, os.RemoveAll(making))
	command(t, "debootstrap", "--variant=minbase", "--include="+packages, suite, making)
	assert.NilError(t, os.Rename(making, root))
	return root
}

// host is a booted Debian: its own systemd as process 1, in a container on this machine's kernel. What it writes is gone after.
type host struct {
	t      *testing.T
	nspawn *exec.Cmd
	log    string
	leader string
	device string // an empty block device
}

// standIn takes the place of the NFS server, for which this machine's kernel may have no part. The lab tests real NFS.
const standIn = "[Unit]\nDescription=stand-in for the NFS server\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"

func boot(t *testing.T, binds ...string) *host {
	t.Helper()
	h := &host{t: t, log: filepath.Join(t.TempDir(), "console")}
	image := filepath.Join(t.TempDir(), "disk")
	assert.NilError(t, os.WriteFile(image, nil, 0o600))
	assert.NilError(t, os.Truncate(image, 1<<30))
	h.device = strings.TrimSpace(command(t, "losetup", "-f", "--show", image))
	t.Cleanup(func() { command(t, "losetup", "-d", h.device) })
	unit := filepath.Join(t.TempDir(), "nfs-server.service")
	assert.NilError(t, os.WriteFile(unit, []byte(standIn), 0o644))

	console, err := os.Create(h.log)
	assert.NilError(t, err)
	defer console.Close()
	args := []string{
		"--register=no", "--keep-unit", "--volatile=overlay", "--capability=all", "--directory=" + debian(t), "--bind=" + h.device, "--bind=/sys/fs/btrfs", // the rest of /sys is for reading in a container
		"--bind-ro=" + unit + ":/etc/systemd/system/nfs-server.service", "--console=pipe", "--boot",
	}
	for _, bind := range binds {
		args = append(args, "--bind-ro="+bind)
	}
	h.nspawn = exec.Command("systemd-nspawn", append(args, "systemd.unit=multi-user.target")...)
	h.nspawn.Stdout, h.nspawn.Stderr = console, console
	assert.NilError(t, h.nspawn.Start())
	t.Cleanup(h.stop)
	h.waitFor("systemd", func() bool {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", h.nspawn.Process.Pid, h.nspawn.Process.Pid))
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
	}, poll.WithTimeout(60*time.Second), poll.WithDelay(200*time.Millisecond))
}
