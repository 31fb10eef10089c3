package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
)

const (
	tenant = "team"
	token  = "the-token-of-the-team"

	startTime = 60 * time.Second
	stopTime  = 60 * time.Second
	callTime  = 60 * time.Second
)

// machine is the storage host with the real agent, and one worker node.
type machine struct {
	config Config
	lab    *lab.Lab
	api    *agentclient.Client
	log    *os.File
	quick  bool // limits are read, and not tested

	agent *exec.Cmd
	ended chan struct{} // closed when the agent has ended
}

func newMachine(c Config) (m *machine, err error) {
	m = &machine{config: c}
	options := lab.Options{Nodes: 1, PoolDevice: c.device(), KeepPool: true, NFSStopped: true}
	if c.Clients {
		options.PoolMountOptions = lateKernelCommit
	}
	if c.Engine == "kernel" {
		options.NFS = lab.Unanswered
	}
	if m.lab, err = lab.Start(options); err != nil {
		return nil, err
	}
	if m.log, err = os.OpenFile(c.path("agent.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		return nil, err
	}
	if m.api, err = agentclient.New(fmt.Sprintf("http://%s:8080", m.lab.Storage.IP), agentclient.Options{Token: token, Timeout: callTime}); err != nil {
		return nil, err
	}
	if err := m.keepExportsFile(); err != nil {
		return nil, err
	}
	return m, m.lab.StartNFSServer()
}

// keepExportsFile stores the exports files where they survive a power cut, as they do on a host's
// root filesystem. They may be stale afterwards. With LoseExports they are lost.
func (m *machine) keepExportsFile() error {
	dir := m.config.path("exports.d")
	if m.config.LoseExports {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	_, err := m.lab.Storage.Run("mount", "--bind", dir, "/etc/exports.d")
	return err
}

func (m *machine) environment() []string {
	return append(os.Environ(),
		"AGENT_BASE_PATH="+m.lab.Pool, "AGENT_TENANTS="+tenant+":"+token, "AGENT_NFS_EXPORTER="+m.config.Engine,
		"AGENT_QUOTA_MODE="+m.config.Quota, "AGENT_NFS_SERVER_UNMANAGED=true", "AGENT_NFS_COMMIT_INTERVAL=300ms", "LOG_LEVEL=debug")
}

func (m *machine) program() string { return filepath.Join(m.config.Bin, "btrfs-nfs-agent") }

// startAgent returns when the agent accepts changes.
func (m *machine) startAgent() error {
	cmd := m.command(context.Background(), m.program())
	cmd.Env = m.environment()
	cmd.Stdout, cmd.Stderr = m.log, m.log
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // cmd.ProcessState has the exit status
		close(ended)
	}()
	m.agent, m.ended = cmd, ended
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	for {
		_, err := m.api.Ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ended:
			return fmt.Errorf("the agent ended: %v", cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("the agent is not ready: %w", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// runs reports whether the agent runs.
func (m *machine) runs() bool {
	if m.agent == nil {
		return false
	}
	select {
	case <-m.ended:
		return false
	default:
		return true
	}
}

// endAgent sends the signal and waits. After SIGTERM the agent must exit without an error.
func (m *machine) endAgent(signal syscall.Signal) error {
	if err := m.agent.Process.Signal(signal); err != nil {
		return fmt.Errorf("the agent had ended before %v: %w", signal, err)
	}
	select {
	case <-m.ended:
	case <-time.After(stopTime):
		return fmt.Errorf("the agent did not end within %v of %v", stopTime, signal)
	}
	if signal == syscall.SIGTERM && !m.agent.ProcessState.Success() {
		return fmt.Errorf("the agent ended with %v after SIGTERM", m.agent.ProcessState)
	}
	return nil
}

// checkInterrupted runs the offline check on the state after a crash. It may find problems, but
// must complete.
func (m *machine) checkInterrupted() error {
	out, err := m.runCheck()
	if exit, found := errors.AsType[*exec.ExitError](err); found && exit.ExitCode() == 1 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("check before the start: %w\n%s", err, out)
	}
	return nil
}

// check runs the offline check, and fails unless it finds nothing. With repair it first repairs.
func (m *machine) check(repair bool) error {
	if repair {
		out, err := m.runCheck("--repair")
		exit, found := errors.AsType[*exec.ExitError](err)
		if err != nil && (!found || exit.ExitCode() != 1) { // 1: the check found repairable problems
			return fmt.Errorf("check --repair: %w\n%s", err, out)
		}
	}
	if out, err := m.runCheck(); err != nil {
		return fmt.Errorf("check: %w\n%s", err, out)
	}
	return nil
}

// initPool initializes the filesystem as a pool, once.
func (m *machine) initPool() error {
	out, err := m.runCommand("init")
	if err != nil {
		return fmt.Errorf("init: %w\n%s", err, out)
	}
	return nil
}

func (m *machine) runCheck(args ...string) (string, error) {
	return m.runCommand(append([]string{"check"}, args...)...)
}

func (m *machine) runCommand(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	cmd := m.command(ctx, m.program(), args...)
	cmd.Env = m.environment()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// isHere reports whether the storage host is this process's namespaces, as in a replay. Then it has
// no NFS server and no node.
func (m *machine) isHere() bool { return m.lab.Storage == nil }

// command prepares a program to run on the storage host.
func (m *machine) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	if m.isHere() {
		return exec.CommandContext(ctx, name, args...)
	}
	return m.lab.Storage.Command(ctx, name, args...)
}

// run runs a program on the storage host and returns its trimmed standard output.
func (m *machine) run(name string, args ...string) (string, error) {
	if !m.isHere() {
		return m.lab.Storage.Run(name, args...)
	}
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		err = fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), err
}

// path returns the path for this process of a path on the storage host.
func (m *machine) path(path string) string {
	if m.isHere() {
		return path
	}
	return m.lab.Storage.Path(path)
}
