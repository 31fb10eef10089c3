package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Host is a machine of the lab's network. It consists of namespaces and a process that holds them.
type Host struct {
	Name string
	// IP and IP6 are its addresses, in 10.77.0.0/24 and fd77::/64.
	IP, IP6 netip.Addr

	shell  *shell
	number int
	script string       // first commands of the holder
	inTest bool         // the namespaces are those of the test, and there is no holder
	onHalt func() error // stops what is not a process of the host, or nil

	mu      sync.Mutex
	holder  *process
	daemons map[string]*process
}

func newHost(s *shell, name string, number int, script string) *Host {
	h := &Host{Name: name, shell: s, number: number, script: script, daemons: map[string]*process{}}
	h.IP, h.IP6 = address(number)
	return h
}

// commonScript runs in a host's new namespaces. It mounts private filesystems for the host.
const commonScript = `set -e
hostname "$1"
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 run /run
mkdir /run/lock
`

// nodeScript is for worker nodes.
const nodeScript = commonScript + holdOn

// holdOn keeps the namespaces. The host is ready when its first process has executed sleep.
const holdOn = `exec sleep infinity
`

// bootTime limits the start of a host.
const bootTime = time.Minute

// boot creates the host's namespaces and connects them to the network.
func (h *Host) boot() error {
	if h.inTest {
		return h.bootInTest()
	}
	log := filepath.Join(h.shell.folder, h.Name+".log")
	holder, err := h.shell.start(os.DevNull, log, log, "unshare", "--net", "--mount", "--uts",
		"--propagation", "private", "sh", "-c", h.script, "lab-"+h.Name, h.Name)
	if err != nil {
		return err
	}
	h.setHolder(holder)
	if !holder.until(bootTime, func() bool { return isSleep(holder.pid) }) {
		said, _ := os.ReadFile(log) // best effort, for the error
		return fmt.Errorf("host %s does not start: %s", h.Name, said)
	}
	if err := h.connect(); err != nil {
		return fmt.Errorf("host %s: %w", h.Name, err)
	}
	return h.register()
}

// bootInTest uses the test's namespaces for the storage host.
func (h *Host) bootInTest() error {
	// CutNetwork takes a cable off the bridge. The cable ends in these namespaces and must then lead
	// nowhere. By default the kernel answers for all of its addresses on every interface, and would
	// still receive over such a cable (arp_ignore in Documentation/networking/ip-sysctl.rst).
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/all/arp_ignore", []byte("1\n"), 0); err != nil {
		return err
	}
	if err := h.connect(); err != nil {
		return fmt.Errorf("host %s: %w", h.Name, err)
	}
	if _, err := h.Run("sh", "-c", nfsScript, "lab-"+h.Name, h.Name); err != nil {
		return err
	}
	return h.register()
}

func isSleep(pid int) bool {
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return err == nil && string(comm) == "sleep\n"
}

func (h *Host) setHolder(holder *process) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.holder = holder
}

// hostsDir lets `lab enter` find a host's namespaces by name.
const hostsDir = machineDir + "/hosts"

func (h *Host) register() error {
	if err := os.MkdirAll(hostsDir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(hostsDir, h.Name), []byte(strconv.Itoa(h.PID())), 0o644)
}

// PID returns the process that holds the host's namespaces, or 0. It changes with a reboot.
func (h *Host) PID() int {
	if h.inTest {
		return os.Getpid()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.holder == nil {
		return 0
	}
	return h.holder.pid
}

// Path returns the path of the host's path for the test process, with the host's mounts.
func (h *Host) Path(path string) string {
	return fmt.Sprintf("/proc/%d/root%s", h.PID(), path)
}

// Command prepares a program to run on the host, in the test's working directory. Dir of the result
// has no effect. The process is the program itself, so that signals reach it. ctx kills it.
//
// A test with open files on NFS mounts uses Run or StartDaemon. A child of the test process closes
// its copies of these files before it executes the program, which writes their data back.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	enter := h.enter(name, args...)
	cmd := exec.CommandContext(ctx, enter[0], enter[1:]...)
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// enter returns the command that runs a program on the host.
func (h *Host) enter(name string, args ...string) []string {
	wd, err := os.Getwd()
	if err != nil {
		wd = "/"
	}
	enter := []string{
		"nsenter", "--target", strconv.Itoa(h.PID()), "--net", "--mount", "--uts", "--wdns=" + wd, "--", name,
	}
	return append(enter, args...)
}

// runTime limits Run. It is longer than an NFS server's grace period.
const runTime = 60 * time.Second

// Run runs a program on the host, for at most a minute, and returns its trimmed standard output.
// The error holds its standard error.
func (h *Host) Run(name string, args ...string) (string, error) {
	return h.RunWithin(runTime, name, args...)
}

// RunWithin is Run with a time limit, which the error names if it is exceeded.
func (h *Host) RunWithin(bound time.Duration, name string, args ...string) (string, error) {
	out, err := h.shell.run(bound, "", h.enter(name, args...)...)
	if err != nil {
		err = fmt.Errorf("%s: %s: %w", h.Name, strings.Join(append([]string{name}, args...), " "), err)
	}
	return out, err
}

// StartDaemon starts a program in the foreground on the host. It runs until StopDaemon or a reboot,
// and writes to /run/NAME.log there. Names of daemons are unique on a host.
func (h *Host) StartDaemon(name string, args ...string) error {
	_, err := h.startDaemon(name, args...)
	return err
}

func (h *Host) startDaemon(name string, args ...string) (*process, error) {
	log := h.daemonLog(name)
	p, err := h.shell.start(os.DevNull, log, log, h.enter(name, args...)...)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.daemons[name] = p
	return p, nil
}

func (h *Host) daemonLog(name string) string { return h.Path("/run/" + filepath.Base(name) + ".log") }

// StopDaemon kills a daemon if it runs.
func (h *Host) StopDaemon(name string) {
	h.mu.Lock()
	p := h.daemons[name]
	delete(h.daemons, name)
	h.mu.Unlock()
	if p != nil {
		p.kill()
	}
}

// DaemonPID returns the process of a daemon that was started and not stopped, or 0.
func (h *Host) DaemonPID(name string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.daemons[name]
	if p == nil {
		return 0
	}
	return p.pid
}

func (h *Host) stopDaemons() {
	h.mu.Lock()
	names := slices.Collect(maps.Keys(h.daemons))
	h.mu.Unlock()
	for _, name := range names {
		h.StopDaemon(name)
	}
}

// Reboot suddenly restarts the host: it kills its processes, drops its mounts and cuts its
// connections without notice to the others. Directories stay. It returns when the host can run
// programs again. The test has to start the storage host's NFS server again.
//
// Files that the test process has open on the host's mounts stay open, and with them the host's NFS
// client. Close them first.
func (h *Host) Reboot() error {
	if h.inTest {
		return fmt.Errorf("host %s is the test itself and cannot be rebooted", h.Name)
	}
	if err := h.halt(); err != nil {
		return err
	}
	return h.boot()
}

// haltTime limits the time until killed processes of a host have ended.
const haltTime = time.Minute

// halt ends all processes of the host. The namespaces, mounts and interfaces end with the last
// process. From the test's namespaces, halt removes what boot has created there.
func (h *Host) halt() error {
	pid := h.PID()
	if pid == 0 {
		return nil
	}
	// Removing the cable first hides the end from the other hosts. It also removes the route, which
	// ends the wait for an NFS server: since Linux 6.15, ENETUNREACH is fatal to mounts of network
	// namespaces (fatal_neterrors in nfs(5)).
	errs := []error{h.shell.removeLink(h.link())}
	if h.onHalt != nil {
		errs = append(errs, h.onHalt())
	}
	h.stopDaemons()
	if !h.inTest {
		errs = append(errs, h.killAll(pid), h.shell.dropMounts(pid))
		h.holder.kill()
		h.setHolder(nil)
	}
	if err := os.Remove(filepath.Join(hostsDir, h.Name)); !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// killAll ends the processes of the host except the holder. Processes that wait for an NFS server
// that is gone can be killed once their mounts fail their requests.
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
			_ = unix.Kill(pid, unix.SIGKILL) // the process may have ended
		}
		h.shell.abortNFS(holder)
		waitForExit(pids, time.Second)
	}
}
