package cluster

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/guest"
)

// Process is a program of the cluster, on this machine or on a host in the guest. It can be killed
// and started again. Its output is appended to one log.
type Process struct {
	Name string
	// Log is the file with its output.
	Log string

	launch launcher
	keep   bool // start it again when it ends, like a kubelet

	mu      sync.Mutex
	current running
	done    chan struct{}
	stopped bool
}

// launcher starts a program and sends its output to out.
type launcher func(out io.Writer) (running, error)

// running is a started program.
type running interface {
	Signal(syscall.Signal) error
	Wait() error
}

// restartPause is the time between the end of a kept process and its next start. A kubelet's
// back-off starts at 10 s, but here tests wait for it.
const restartPause = time.Second

// Start starts the process unless it runs. It first waits for an old process that was ended but
// still exists, because it hangs in the kernel or on a machine without power.
func (p *Process) Start() error { return p.startAfter(time.Minute) }

func (p *Process) startAfter(patience time.Duration) error {
	p.mu.Lock()
	ending, done := p.current != nil && p.stopped, p.done
	p.mu.Unlock()
	if ending {
		select {
		case <-done:
		case <-time.After(patience):
			return fmt.Errorf("start %s: it was told to end and has not after %s", p.Name, patience)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = false
	return p.startLocked()
}

func (p *Process) startLocked() error {
	if p.current != nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(p.Log), 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	fmt.Fprintf(log, "--- %s start\n", time.Now().Format(time.TimeOnly))
	r, err := p.launch(log)
	if err != nil {
		return errors.Join(fmt.Errorf("start %s: %w", p.Name, err), log.Close())
	}
	done := make(chan struct{})
	p.current, p.done = r, done
	go func() {
		err := r.Wait()
		fmt.Fprintf(log, "--- %s ended: %v\n", time.Now().Format(time.TimeOnly), err)
		_ = log.Close()
		p.ended(done)
	}()
	return nil
}

func (p *Process) ended(done chan struct{}) {
	p.mu.Lock()
	p.current = nil
	again := p.keep && !p.stopped
	p.mu.Unlock()
	close(done)
	if !again {
		return
	}
	time.AfterFunc(restartPause, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.stopped {
			_ = p.startLocked() // the log shows the next attempt, or that there is none
		}
	})
}

// Running reports whether the process runs.
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.current != nil
}

// Stop ends the process with SIGTERM, or after 30 s with SIGKILL, and waits.
func (p *Process) Stop() { p.end(syscall.SIGTERM, 30*time.Second) }

// Kill ends the process with SIGKILL and waits.
func (p *Process) Kill() { p.end(syscall.SIGKILL, 10*time.Second) }

// Crash kills a kept process, which then restarts.
func (p *Process) Crash() {
	p.mu.Lock()
	r, done := p.current, p.done
	p.mu.Unlock()
	if r != nil {
		_ = r.Signal(syscall.SIGKILL) // it may have ended
		<-done
	}
}

func (p *Process) end(sig syscall.Signal, patience time.Duration) {
	p.mu.Lock()
	p.stopped = true
	r, done := p.current, p.done
	p.mu.Unlock()
	if r == nil {
		return
	}
	_ = r.Signal(sig) // it may have ended
	select {
	case <-done:
	case <-time.After(patience):
		_ = r.Signal(syscall.SIGKILL)
		select {
		case <-done:
		case <-time.After(patience): // hangs in the kernel: it ends with the machine, and the next Start waits for it
		}
	}
}

// Tail returns the end of the log.
func (p *Process) Tail(lines int) string {
	text, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	return lastLines(text, lines)
}

// local launches a program on this machine.
func local(env []string, program string, args ...string) launcher {
	return func(out io.Writer) (running, error) {
		cmd := exec.Command(program, args...)
		cmd.Env = append(os.Environ(), env...)
		cmd.Stdout, cmd.Stderr = out, out
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		return localProgram{cmd}, cmd.Start()
	}
}

// localAs launches a program on this machine with a separate host name, as in a pod: sidecars
// identify their leases by it.
func localAs(hostname string, env []string, program string, args ...string) launcher {
	script := `echo "$0" > /proc/sys/kernel/hostname && exec "$@"`
	return local(env, "unshare", append([]string{"--uts", "sh", "-c", script, hostname, program}, args...)...)
}

type localProgram struct{ *exec.Cmd }

func (p localProgram) Signal(sig syscall.Signal) error { return p.Process.Signal(sig) }

// inGuest launches a program on a host in the guest.
func (m *machine) inGuest(host string, env []string, program string, args ...string) launcher {
	return func(out io.Writer) (running, error) {
		cmd := m.command(host, env, program, args...)
		cmd.Stdout, cmd.Stderr = out, out
		return cmd, cmd.Start()
	}
}

var _ running = (*guest.Cmd)(nil)

// joinEnv joins variables for env(1).
func joinEnv(env []string) []string {
	return append([]string{"env"}, env...)
}

// shortName returns the last element of a path, for logs.
func shortName(program string) string { return program[strings.LastIndex(program, "/")+1:] }
