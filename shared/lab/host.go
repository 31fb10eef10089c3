package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Host is a machine of the lab's network: namespaces, and a process that holds them.
type Host struct {
	Name string
	// IP and IP6 are its addresses, in 10.77.0.0/24 and fd77::/64.
	IP, IP6 netip.Addr

	number int
	script string       // what the holder does first
	onHalt func() error // stops what no process of the host is, or nil
	mu     sync.Mutex
	holder *exec.Cmd
}

func newHost(name string, number int, script string) *Host {
	h := &Host{Name: name, number: number, script: script}
	h.IP, h.IP6 = address(number)
	return h
}

// commonScript is run in a host's fresh namespaces: what must be its own, it mounts.
const commonScript = `set -e
hostname "$1"
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 run /run
mkdir /run/lock
`

// nodeScript is for worker nodes.
const nodeScript = commonScript + holdOn

// holdOn tells the parent that the host is ready, and keeps the namespaces.
const holdOn = `echo ready
exec sleep infinity
`

// boot makes the host's namespaces and connects them to the network.
func (h *Host) boot() error {
	holder := exec.Command("unshare", "--net", "--mount", "--uts", "--propagation", "private",
		"sh", "-c", h.script, "lab-"+h.Name, h.Name)
	holder.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	var said bytes.Buffer
	holder.Stderr = &said
	holder.WaitDelay = time.Second
	ready, err := holder.StdoutPipe()
	if err != nil {
		return err
	}
	if err := holder.Start(); err != nil {
		return err
	}
	h.mu.Lock()
	h.holder = holder
	h.mu.Unlock()
	if _, err := ready.Read(make([]byte, 16)); err != nil {
		_ = holder.Wait()
		return fmt.Errorf("host %s: %w: %s", h.Name, err, said.String())
	}
	if err := h.connect(); err != nil {
		return fmt.Errorf("host %s: %w", h.Name, err)
	}
	return h.register()
}

// hostsDir lets `lab enter` find a host's namespaces by name.
const hostsDir = machineDir + "/hosts"

func (h *Host) register() error {
	if err := os.MkdirAll(hostsDir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(hostsDir, h.Name), []byte(strconv.Itoa(h.PID())), 0o644)
}

// PID is that of the process that holds the host's namespaces, or 0. It changes with a reboot.
func (h *Host) PID() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.holder == nil || h.holder.Process == nil {
		return 0
	}
	return h.holder.Process.Pid
}

// Path is where the test process finds what the host has at path, mounts included.
func (h *Host) Path(path string) string {
	return fmt.Sprintf("/proc/%d/root%s", h.PID(), path)
}

// Command prepares a program to run on the host, in the test's working directory; Dir of the
// result has no effect. The process is the program itself, so that signals reach it; ctx kills it.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	wd, err := os.Getwd()
	if err != nil {
		wd = "/"
	}
	enter := []string{
		"--target", strconv.Itoa(h.PID()), "--net", "--mount", "--uts", "--wdns=" + wd, "--", name,
	}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// runTime bounds Run. It is longer than an NFS server's grace period.
const runTime = 60 * time.Second

// Run runs a program on the host, for a minute at most, and returns its trimmed standard output.
// The error holds what it wrote to its standard error.
func (h *Host) Run(name string, args ...string) (string, error) {
	return h.RunWithin(runTime, name, args...)
}

// RunWithin is Run with a bound of the caller's, which the error names when it is over.
func (h *Host) RunWithin(bound time.Duration, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	out, err := output(h.Command(ctx, name, args...), h.Name+": "+strings.Join(append([]string{name}, args...), " "))
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("not over after %s: %w", bound, err)
	}
	return out, err
}

// output runs cmd, which the error calls what.
func output(cmd *exec.Cmd, what string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", what, err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(stdout.String()), err
}

// Reboot is a sudden restart of the host: its processes are killed, its mounts dropped and its
// connections cut without a word to the others. Directories stay. It returns when the host can
// run programs again; the storage host's NFS server has to be started again.
func (h *Host) Reboot() error {
	if err := h.halt(); err != nil {
		return err
	}
	return h.boot()
}

// haltTime bounds the death of a host's processes, once they are killed.
const haltTime = 10 * time.Second

// halt ends all processes of the host; the namespaces, mounts and interfaces go with the last.
func (h *Host) halt() error {
	pid := h.PID()
	if pid == 0 {
		return nil
	}
	// The cable goes first, so that nobody hears of the end. With it goes the route, which ends
	// the wait for an NFS server: since Linux 6.15, ENETUNREACH is fatal to mounts of network
	// namespaces (fatal_neterrors in nfs(5)).
	errs := []error{removeLink(h.link())}
	if h.onHalt != nil {
		errs = append(errs, h.onHalt())
	}
	errs = append(errs, h.killAll(pid), dropMounts(pid))
	_ = h.holder.Process.Kill()
	_ = h.holder.Wait()
	h.mu.Lock()
	h.holder = nil
	h.mu.Unlock()
	if err := os.Remove(filepath.Join(hostsDir, h.Name)); !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// killAll ends the processes of the host but the holder. Those that wait for an NFS server that
// is gone can be killed, once their mounts fail their requests.
func (h *Host) killAll(holder int) error {
	deadline := time.Now().Add(haltTime)
	for {
		pids, err := processesOf(holder)
		if err != nil || len(pids) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("host %s: processes %v do not die", h.Name, pids)
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL) // it may be gone meanwhile
		}
		abortNFS(holder)
		waitForExit(pids, time.Second)
	}
}
