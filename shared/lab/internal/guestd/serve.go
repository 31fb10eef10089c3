// Package guestd is process 1 of a machine of the lab. It builds the root filesystem, then runs the
// commands from the control stream and reaps their leftover processes.
package guestd

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/internal/wire"
)

// serialLine is the UML serial line to the process that booted the guest.
const serialLine = "/dev/ttyS0"

// RunUML is process 1 of a User Mode Linux guest whose root is a hostfs. It does not return while
// the guest runs.
func RunUML() error {
	if err := unix.Mount("devtmpfs", "/dev", "devtmpfs", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount devtmpfs: %w", err)
	}
	if err := readDisks(); err != nil {
		return err
	}
	line, err := openRaw(serialLine)
	if err != nil {
		return err
	}
	s := newServer(line)
	defer s.halt()
	return s.run(umlRoot{})
}

// RunNamespaces is process 1 of a machine that is made of namespaces on this kernel. The control
// stream is descriptor fd. It returns when the other end closes the stream.
func RunNamespaces(fd uintptr) error {
	s := newServer(os.NewFile(fd, "control"))
	return s.run(namespaceRoot{})
}

type server struct {
	conn   *wire.Conn
	reaper *reaper
	env    []string

	mu       sync.Mutex
	commands map[uint32]*command
}

func newServer(stream *os.File) *server {
	return &server{conn: wire.NewMachineConn(stream), reaper: newReaper(), commands: map[uint32]*command{}}
}

// run handles frames until the stream ends or a frame tells the machine to halt.
func (s *server) run(root rootKind) error {
	go s.reaper.run()
	if err := s.conn.Send(wire.Hello, 0, nil); err != nil {
		return err
	}
	for {
		f, err := s.conn.Receive()
		if err != nil {
			return err
		}
		switch f.Type {
		case wire.Configure:
			var problem []byte
			if err := s.configure(root, f.Payload); err != nil {
				problem = []byte(err.Error())
			}
			if err := s.conn.Send(wire.Ready, 0, problem); err != nil {
				return err
			}
		case wire.Start:
			s.start(f)
		case wire.Stdin, wire.Signal:
			s.forward(f)
		case wire.PowerOff:
			s.halt()
			return nil
		}
	}
}

func (s *server) configure(root rootKind, payload []byte) error {
	var setup wire.Setup
	if err := json.Unmarshal(payload, &setup); err != nil {
		return err
	}
	for _, kv := range setup.Env {
		if len(kv) > 5 && kv[:5] == "PATH=" {
			if err := os.Setenv("PATH", kv[5:]); err != nil { // exec.LookPath reads it
				return err
			}
		}
	}
	s.env = setup.Env
	return buildMachine(root, setup, s.reaper)
}

func (s *server) start(f wire.Frame) {
	var req wire.Command
	err := json.Unmarshal(f.Payload, &req)
	var c *command
	if err == nil {
		if req.Env == nil {
			req.Env = s.env
		}
		c, err = startCommand(req, s.reaper)
	}
	if err != nil {
		_ = s.conn.SendJSON(wire.Exit, f.ID, wire.ExitStatus{Err: err.Error()})
		return
	}
	s.mu.Lock()
	s.commands[f.ID] = c
	s.mu.Unlock()
	go func() {
		status := c.wait(func(t wire.Type, p []byte) { _ = s.conn.Send(t, f.ID, p) })
		s.mu.Lock()
		delete(s.commands, f.ID)
		s.mu.Unlock()
		_ = s.conn.SendJSON(wire.Exit, f.ID, status)
	}()
}

func (s *server) forward(f wire.Frame) {
	s.mu.Lock()
	c := s.commands[f.ID]
	s.mu.Unlock()
	if c == nil { // the command has ended
		return
	}
	if f.Type == wire.Stdin {
		c.input.put(f.Payload)
	} else if len(f.Payload) == 1 {
		c.signal(unix.Signal(f.Payload[0]))
	}
}

// halt ends every process, syncs all filesystems and powers off the machine. In a PID namespace of
// a shared kernel, the reboot call only ends the namespace (reboot(2)).
func (s *server) halt() {
	_ = unix.Kill(-1, unix.SIGKILL)
	unmountAll()
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// openRaw opens a terminal line without line editing, echo or translation (cfmakeraw(3)).
func openRaw(path string) (*os.File, error) {
	line, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	fd := int(line.Fd())
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("read the modes of %s: %w", path, err)
	}
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, t); err != nil {
		return nil, fmt.Errorf("make %s raw: %w", path, err)
	}
	return line, nil
}
