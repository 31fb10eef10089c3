package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/guest"
)

// execute is `lab exec`.
func execute(args []string) error {
	var want request
	flags := want.flags("exec", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("lab exec: name a program")
	}
	program, err := absolute(flags.Arg(0))
	if err != nil {
		return err
	}
	if want.name == "" {
		// When go test is killed, its children must end. A machine with a name may stay.
		if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
			return err
		}
	}
	want.visible = append(want.visible, program)
	return withMachine(want, func(m machine) error {
		cmd := m.Command(program, flags.Args()[1:]...)
		if cmd.Dir, err = os.Getwd(); err != nil {
			return err
		}
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		return runForwardingSignals(cmd)
	})
}

// absolute makes a path that contains a slash absolute. It leaves a bare name to PATH.
func absolute(program string) (string, error) {
	if filepath.Base(program) == program {
		return program, nil
	}
	return filepath.Abs(program)
}

// machine is the common interface of both kinds of machine.
type machine interface {
	Command(name string, args ...string) *guest.Cmd
	Shutdown(ctx context.Context) error
	Done() <-chan struct{}
}

// shutdownTime limits the shutdown of a machine that is discarded.
const shutdownTime = 5 * time.Second

// endTime is how long a program may take to end after SIGINT or SIGTERM.
const endTime = 10 * time.Second

// withMachine starts a machine, calls use with it, and ends it.
func withMachine(want request, use func(machine) error) error {
	// A signal before the program runs cancels the start of the machine.
	ctx, stop := interruptible(unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	asked, stop := interruptible(unix.SIGINT, unix.SIGTERM)
	defer stop()
	m, err := startMachine(ctx, want)
	if ctx.Err() != nil && err != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), shutdownTime)
		defer cancel()
		_ = m.Shutdown(ctx) // the power is cut at the latest
	}()
	if want.name != "" {
		l, err := listen(want.name, m)
		if err != nil {
			return err
		}
		defer l.Close()
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	used, ended := make(chan struct{}), make(chan bool, 1)
	go func() { ended <- endAfterSignal(asked, used, m) }()
	err = explain(use(m), m)
	close(used)
	if <-ended {
		return context.Cause(asked)
	}
	return err
}

// interruptible returns a context that the first of the signals cancels. Its cause is the error of
// a program that the signal ended.
func interruptible(signals ...os.Signal) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	received := make(chan os.Signal, 1)
	signal.Notify(received, signals...)
	go func() {
		select {
		case sig := <-received:
			number, _ := sig.(syscall.Signal) // on Unix, every signal is a syscall.Signal
			cancel(&guest.ExitError{Name: "lab", Code: 128 + int(number), Signal: number})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(received)
		cancel(nil)
	}
}

// endAfterSignal ends the machine, and with it its user, if the user has not ended endTime after a
// signal: the program ignores the signal, or the machine hangs. It reports whether it had to.
func endAfterSignal(asked context.Context, used <-chan struct{}, m machine) bool {
	select {
	case <-asked.Done():
	case <-used:
		return false
	}
	select {
	case <-time.After(endTime):
	case <-used:
		return false
	}
	fmt.Fprintf(os.Stderr, "lab: the program did not end within %v of the signal: ending the machine\n", endTime)
	atOnce, cancel := context.WithCancel(context.Background())
	cancel()
	_ = m.Shutdown(atOnce) // the machine is killed
	return true
}

// runForwardingSignals runs cmd and forwards the signals of this process to it. go test sends
// SIGQUIT to a test binary that has run too long, and SIGKILL later. A second SIGINT or SIGTERM
// kills the program.
func runForwardingSignals(cmd *guest.Cmd) error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	asked := 0
	for {
		select {
		case err := <-done:
			return err
		case sig := <-signals:
			number, ok := sig.(syscall.Signal)
			if !ok {
				continue
			}
			if number == unix.SIGINT || number == unix.SIGTERM {
				if asked++; asked > 1 {
					number = unix.SIGKILL
				}
			}
			if err := cmd.Signal(number); err != nil {
				return fmt.Errorf("pass on %v: %w", sig, err)
			}
		}
	}
}
