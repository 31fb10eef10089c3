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
		// When go test is killed, what it started must not go on; a machine with a name may stay.
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

// absolute makes a path that contains a slash absolute; a bare name is left to PATH.
func absolute(program string) (string, error) {
	if filepath.Base(program) == program {
		return program, nil
	}
	return filepath.Abs(program)
}

// machine is what both kinds of machine can do.
type machine interface {
	Command(name string, args ...string) *guest.Cmd
	Shutdown(ctx context.Context) error
	Done() <-chan struct{}
}

// shutdownTime bounds the end of a machine that nobody will look at again.
const shutdownTime = 5 * time.Second

// withMachine makes a machine, lets use work with it, and ends it.
func withMachine(want request, use func(machine) error) error {
	// A signal before the program runs ends the start of the machine.
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	m, err := startMachine(ctx, want)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), shutdownTime)
		defer cancel()
		_ = m.Shutdown(ctx) // cut off at the latest
	}()
	if want.name != "" {
		l, err := listen(want.name, m)
		if err != nil {
			return err
		}
		defer l.Close()
	}
	return explain(use(m), m)
}

// runForwardingSignals runs cmd, and hands it the signals that this process gets. go test sends
// SIGQUIT to a test binary that has run too long, and SIGKILL later; a second SIGINT or SIGTERM
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
