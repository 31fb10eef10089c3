package guestd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/internal/wire"
)

// command is a program that runs for the other end of the stream.
type command struct {
	pid    int
	exited <-chan unix.WaitStatus
	input  *inputQueue
	out    map[wire.Type]*os.File // read ends of its output
}

// startCommand starts a program in a new session.
func startCommand(req wire.Command, r *reaper) (*command, error) {
	if len(req.Args) == 0 {
		return nil, fmt.Errorf("empty command")
	}
	if req.Dir == "" {
		req.Dir = "/"
	}
	path, err := lookPath(req.Args[0], req.Dir)
	if err != nil {
		return nil, err
	}
	c := &command{input: newInputQueue(), out: map[wire.Type]*os.File{}}
	attr := &syscall.ProcAttr{Dir: req.Dir, Env: req.Env, Sys: &syscall.SysProcAttr{Setsid: true}}
	theirs, err := c.connect(req, attr)
	defer closeAll(theirs)
	if err != nil {
		c.abandon()
		return nil, err
	}
	for _, f := range theirs {
		attr.Files = append(attr.Files, f.Fd())
	}
	c.pid, c.exited, err = r.start(path, req.Args, attr)
	if err != nil {
		c.abandon()
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	return c, nil
}

// connect creates the pipes or the terminal, and returns the program's descriptors 0, 1 and 2.
func (c *command) connect(req wire.Command, attr *syscall.ProcAttr) (theirs []*os.File, err error) {
	if req.Terminal != nil {
		ours, tty, err := openTerminal(*req.Terminal)
		if err != nil {
			return nil, err
		}
		attr.Sys.Setctty = true
		c.out[wire.Stdout] = ours
		go c.input.copyTo(ours, false)
		return []*os.File{tty, tty, tty}, nil
	}
	stdin, err := os.Open(os.DevNull)
	if req.HasStdin && err == nil {
		_ = stdin.Close()
		var w *os.File
		if stdin, w, err = os.Pipe(); err == nil {
			go c.input.copyTo(w, true)
		}
	}
	if err != nil {
		return nil, err
	}
	theirs = append(theirs, stdin)
	for _, t := range []wire.Type{wire.Stdout, wire.Stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			return theirs, err
		}
		c.out[t] = r
		theirs = append(theirs, w)
	}
	return theirs, nil
}

// drainTime is how long the output is read after the program has ended, if one of its children
// still holds its pipes.
const drainTime = time.Second

// wait forwards the program's output until it has ended.
func (c *command) wait(send func(wire.Type, []byte)) wire.ExitStatus {
	var pumps sync.WaitGroup
	for t, f := range c.out {
		pumps.Go(func() { pump(f, func(p []byte) { send(t, p) }) })
	}
	status := <-c.exited
	for _, f := range c.out {
		_ = f.SetReadDeadline(time.Now().Add(drainTime))
	}
	pumps.Wait()
	c.abandon()
	if status.Signaled() {
		return wire.ExitStatus{Code: 128 + int(status.Signal()), Signal: int(status.Signal())}
	}
	return wire.ExitStatus{Code: status.ExitStatus()}
}

func (c *command) signal(sig unix.Signal) {
	pid := c.pid
	if sig == unix.SIGKILL {
		pid = -pid // the whole process group: it has no other parent that cleans up
	}
	_ = unix.Kill(pid, sig)
}

// abandon closes the ends on this side.
func (c *command) abandon() {
	c.input.put(nil)
	for _, f := range c.out {
		_ = f.Close()
	}
}

func pump(f *os.File, send func([]byte)) {
	buf := make([]byte, 32<<10)
	for {
		n, err := f.Read(buf)
		if n > 0 {
			send(buf[:n])
		}
		if err != nil {
			return
		}
	}
}

func lookPath(name, dir string) (string, error) {
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return name, nil
	}
	return exec.LookPath(name)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // closing a terminal twice or three times is harmless
	}
}
