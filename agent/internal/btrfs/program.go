package btrfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Program is the program of btrfs-progs.
const Program = "btrfs"

// FindProgram returns the path of the program, given its name or its path. If it is missing, the
// error wraps exec.ErrNotFound or fs.ErrNotExist.
func FindProgram(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil || strings.Contains(name, "/") {
		return path, err
	}
	// The PATH of a user may lack the directories of administrator programs.
	inSbin, sbinErr := exec.LookPath("/usr/sbin/" + name)
	if sbinErr != nil {
		return "", err
	}
	return inSbin, nil
}

const (
	// signalEvery is how often a process gets its signal until it ends. The first signal may arrive
	// before the process has entered the kernel, where it has no effect. After a signal has had its
	// effect, the next one must not follow soon. The handler of btrfs-scrub(8) calls perror(3), and
	// two of its threads in it can deadlock (seen with btrfs-progs 6.2).
	signalEvery = 2 * time.Second
	// killAfter is the time after the first signal when the process gets SIGKILL instead.
	killAfter = 20 * time.Second
)

// nextSignal returns the next signal for a process that got its first signal at since.
func nextSignal(stop syscall.Signal, since time.Time) syscall.Signal {
	if time.Since(since) >= killAfter {
		return syscall.SIGKILL
	}
	return stop
}

// Command is one run of the btrfs program that takes minutes to hours.
type Command struct {
	Path string // of the program
	Args []string

	// Stop is the signal that ends the work of this process, and no other work on the filesystem.
	// Run kills a process that ignores it. The children get the same signals, because the program
	// may be a script that runs the one of btrfs-progs.
	Stop syscall.Signal

	// Begun reports whether the kernel works for the process. The first signal waits for it, at
	// most killAfter. A signal that reaches btrfs-scrub(8) earlier makes it record a finished scrub
	// that has read nothing (seen with btrfs-progs 6.2). If Begun is nil, the signal does not wait.
	Begun func() bool

	// Started gets the PID before Run waits for the process. An error ends the process.
	Started func(pid int) error
}

// Run runs the command in the C locale and returns its output. When ctx ends, it sends the signal
// Stop and waits until the process has ended.
func (c Command) Run(ctx context.Context) (stdout, stderr string, err error) {
	var out, complaints bytes.Buffer
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C that ends the agent must not reach the process
	cmd.Stdout, cmd.Stderr = &out, &complaints
	cmd.WaitDelay = 2 * killAfter // for a child that has left the group and keeps the output open
	if err := cmd.Start(); err != nil {
		return "", "", c.failed("", err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	startErr := c.Started(cmd.Process.Pid)
	if startErr != nil {
		stop()
	}
	ended := make(chan struct{})
	signalled := make(chan struct{})
	go func() {
		defer close(signalled)
		select {
		case <-ended:
			return
		case <-ctx.Done():
		}
		signalGroup(cmd.Process.Pid, c.Stop, c.Begun, func(wait time.Duration) bool {
			select {
			case <-ended:
				return true
			case <-time.After(wait):
				return false
			}
		})
	}()
	err = cmd.Wait()
	close(ended)
	<-signalled
	if startErr != nil {
		return "", "", startErr
	}
	if err != nil {
		err = c.failed(complaints.String(), err)
	}
	return out.String(), complaints.String(), err
}

// signalGroup signals the process group until ended returns true. ended waits for at most the given
// time. If begun is not nil, the first signal waits for it, at most killAfter.
func signalGroup(pid int, stop syscall.Signal, begun func() bool, ended func(wait time.Duration) bool) {
	const lookEvery = 10 * time.Millisecond
	for asked := time.Now(); begun != nil && !begun() && time.Since(asked) < killAfter; {
		if ended(lookEvery) {
			return
		}
	}
	for since := time.Now(); ; {
		_ = unix.Kill(-pid, nextSignal(stop, since)) // the group may have ended
		if ended(signalEvery) {
			return
		}
	}
}

func (c Command) failed(stderr string, err error) error {
	stderr = strings.TrimSpace(stderr)
	if stderr != "" {
		err = fmt.Errorf("%w: %.4096s", err, stderr)
	}
	return fmt.Errorf("%s %s: %w", c.Path, strings.Join(c.Args, " "), err)
}

// ExitCode returns the exit code of a failed run, 0 without an error, and -1 for another error.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		return failed.ExitCode()
	}
	return -1
}
