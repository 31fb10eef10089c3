package system

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
)

// Daemon is a program of this project on a host of the lab.
type Daemon struct {
	Name string

	host    *lab.Host // nil: in the test's namespaces
	program string
	args    []string
	env     []string
	log     string
	ready   func(context.Context) error

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{}
}

const (
	startTime = 3 * time.Minute // with a thousand exports, in the guest of a busy machine
	stopTime  = 2 * time.Minute // a drain may take half of it
)

// Start starts the daemon and waits until it is ready. Its output is appended to its log.
func (d *Daemon) Start() error {
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := d.command()
	cmd.Env = append(os.Environ(), d.env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", d.Name, err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // cmd.ProcessState has the exit status
		close(done)
	}()
	d.mu.Lock()
	d.cmd, d.done = cmd, done
	d.mu.Unlock()
	return d.awaitReady(cmd, done)
}

func (d *Daemon) command() *exec.Cmd {
	if d.host == nil {
		return exec.Command(d.program, d.args...)
	}
	return d.host.Command(context.Background(), d.program, d.args...)
}

func (d *Daemon) awaitReady(cmd *exec.Cmd, done chan struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	for {
		err := d.ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-done:
			return fmt.Errorf("%s ended: %v\n%s", d.Name, cmd.ProcessState, d.Tail())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready after %v: %w\n%s", d.Name, startTime, err, d.Tail())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// SetEnv sets NAME=value for the next start, and overrides earlier values.
func (d *Daemon) SetEnv(env ...string) { d.env = append(d.env, env...) }

// SetPrograms uses the program in another directory from the next start on.
func (d *Daemon) SetPrograms(dir string) { d.program = filepath.Join(dir, filepath.Base(d.program)) }

// Stop stops the daemon with SIGTERM. It fails if the daemon exits with an error or too late.
func (d *Daemon) Stop() error {
	cmd, err := d.end(syscall.SIGTERM)
	if err != nil || cmd == nil {
		return err
	}
	if !cmd.ProcessState.Success() {
		return fmt.Errorf("%s: %v\n%s", d.Name, cmd.ProcessState, d.Tail())
	}
	return nil
}

// Kill ends the daemon with SIGKILL.
func (d *Daemon) Kill() error {
	_, err := d.end(syscall.SIGKILL)
	return err
}

// Signal sends the daemon a signal.
func (d *Daemon) Signal(sig os.Signal) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cmd == nil {
		return fmt.Errorf("%s does not run", d.Name)
	}
	return d.cmd.Process.Signal(sig)
}

func (d *Daemon) end(sig os.Signal) (*exec.Cmd, error) {
	d.mu.Lock()
	cmd, done := d.cmd, d.done
	d.cmd = nil
	d.mu.Unlock()
	if cmd == nil {
		return nil, nil
	}
	if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return nil, err
	}
	select {
	case <-done:
		return cmd, nil
	case <-time.After(stopTime):
		_ = cmd.Process.Kill()
		return nil, fmt.Errorf("%s did not end within %v of %v\n%s", d.Name, stopTime, sig, d.Tail())
	}
}

// Log returns all output of the daemon.
func (d *Daemon) Log() string {
	content, _ := os.ReadFile(d.log)
	return string(content)
}

// Tail returns the end of the log, for messages.
func (d *Daemon) Tail() string {
	lines := strings.Split(strings.TrimRight(d.Log(), "\n"), "\n")
	return "  " + strings.Join(lines[max(0, len(lines)-20):], "\n  ")
}

// program returns the path of a binary of this project in $BNC_BIN, where make puts them.
func program(name string) (string, error) {
	dir := os.Getenv("BNC_BIN")
	if dir == "" {
		return "", errors.New("BNC_BIN does not name the folder of the built daemons: use make")
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%w: run make build", err)
	}
	return path, nil
}
