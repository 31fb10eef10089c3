package guest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/internal/wire"
)

// Size is the size of a terminal, in characters.
type Size = wire.Size

// Cmd is a program to run in the machine, similar to os/exec.
type Cmd struct {
	// Args is the program, looked up in the machine's PATH, and its arguments.
	Args []string
	// Env replaces the machine's environment when it is not nil.
	Env []string
	// Dir is the working directory; empty means "/".
	Dir string
	// Stdin is copied to the program until its end; nil is /dev/null.
	Stdin io.Reader
	// Stdout and Stderr get the output as it arrives. nil discards it.
	Stdout, Stderr io.Writer
	// Terminal gives the program a terminal of that size. All output goes to Stdout.
	Terminal *Size

	session *Session
	id      uint32
	queue   *queue
	done    chan struct{}
	err     error
}

// ExitError is the result of a program that failed.
type ExitError struct {
	Name   string
	Code   int            // exit code; 128 + the signal's number if Signal is set
	Signal syscall.Signal // the signal that ended it, or 0
	Stderr []byte         // standard error, if Output collected it
}

func (e *ExitError) Error() string {
	msg := fmt.Sprintf("%s: exit status %d", e.Name, e.Code)
	if e.Signal != 0 {
		msg = fmt.Sprintf("%s: signal: %v", e.Name, e.Signal)
	}
	if len(e.Stderr) > 0 {
		msg += ": " + strings.TrimSpace(string(e.Stderr))
	}
	return msg
}

// Command prepares a program. Nothing runs before Start, Run or Output.
func (s *Session) Command(name string, args ...string) *Cmd {
	return &Cmd{Args: append([]string{name}, args...), session: s}
}

// Start starts the program and returns at once.
func (c *Cmd) Start() error {
	if c.queue != nil {
		return errors.New("command was already started")
	}
	c.queue, c.done = newQueue(), make(chan struct{})
	if err := c.session.register(c); err != nil {
		return err
	}
	err := c.session.conn.SendJSON(wire.Start, c.id, wire.Command{
		Args: c.Args, Env: c.Env, Dir: c.Dir, HasStdin: c.Stdin != nil, Terminal: c.Terminal,
	})
	if err != nil {
		c.session.forget(c)
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	go c.output()
	if c.Stdin != nil {
		go c.input()
	}
	return nil
}

// Wait returns when the program has ended and its output is copied. The result is nil, an
// *ExitError, or an error that wraps ErrGone if the machine ended first.
func (c *Cmd) Wait() error {
	<-c.done
	return c.err
}

// Run is Start and Wait.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the program and returns its standard output.
func (c *Cmd) Output() ([]byte, error) {
	var stdout, stderr bytes.Buffer
	c.Stdout = &stdout
	if c.Stderr == nil {
		c.Stderr = &stderr
	}
	err := c.Run()
	var exit *ExitError
	if errors.As(err, &exit) {
		exit.Stderr = stderr.Bytes()
	}
	return stdout.Bytes(), err
}

// CombinedOutput runs the program and returns its standard output and standard error.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	var all bytes.Buffer // only the output goroutine writes to it
	c.Stdout, c.Stderr = &all, &all
	err := c.Run()
	return all.Bytes(), err
}

// Signal sends sig to the program. SIGKILL goes to its whole session.
func (c *Cmd) Signal(sig syscall.Signal) error {
	return c.session.conn.Send(wire.Signal, c.id, []byte{byte(sig)})
}

func (c *Cmd) output() {
	defer close(c.done)
	for {
		f, ok := c.queue.get()
		if !ok {
			c.err = fmt.Errorf("%s: %w", c.Args[0], ErrGone)
			return
		}
		switch f.Type {
		case wire.Stdout:
			copyTo(c.Stdout, f.Payload)
		case wire.Stderr:
			copyTo(c.Stderr, f.Payload)
		case wire.Exit:
			c.err = c.exitError(f.Payload)
			return
		}
	}
}

// copyTo ignores a writer's error, because a pipe whose reader has closed it must not stop the
// program.
func copyTo(w io.Writer, p []byte) {
	if w != nil {
		_, _ = w.Write(p)
	}
}

func (c *Cmd) exitError(payload []byte) error {
	var status wire.ExitStatus
	if err := json.Unmarshal(payload, &status); err != nil {
		return fmt.Errorf("%s: exit status: %w", c.Args[0], err)
	}
	if status.Err != "" {
		return fmt.Errorf("%s: %s", c.Args[0], status.Err)
	}
	if status.Code == 0 {
		return nil
	}
	return &ExitError{Name: c.Args[0], Code: status.Code, Signal: syscall.Signal(status.Signal)}
}

func (c *Cmd) input() {
	buf := make([]byte, 4096)
	for {
		n, err := c.Stdin.Read(buf)
		if n > 0 && c.session.conn.Send(wire.Stdin, c.id, buf[:n]) != nil {
			return
		}
		if err != nil {
			_ = c.session.conn.Send(wire.Stdin, c.id, nil)
			return
		}
	}
}
