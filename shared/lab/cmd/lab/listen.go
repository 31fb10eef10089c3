package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/guest"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/internal/wire"
)

// socketPath returns the socket of a machine with a name, for `lab enter`. Only the user who
// started the machine can connect to it.
func socketPath(name string) (string, error) {
	if name != filepath.Base(name) || name == "." || name == ".." {
		return "", fmt.Errorf("machine name %q: it may not be a path", name)
	}
	return filepath.Join(socketDir(), name), nil
}

func socketDir() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("btrfs-nfs-csi-lab-%d", os.Getuid()))
}

// listen lets other processes run programs in m. The protocol is that of m.
func listen(name string, m machine) (io.Closer, error) {
	path, err := socketPath(name)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("a machine with the name %q is running", name)
	}
	_ = os.Remove(path) // left by a killed process
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			go serve(c, m)
		}
	}()
	return l, nil
}

// serve runs one program for the process at the other end.
func serve(c net.Conn, m machine) {
	defer c.Close()
	conn := wire.NewMachineConn(c)
	cmd, stdin, err := accept(conn, m)
	if err != nil {
		return // the other end has disconnected or is not `lab enter`
	}
	const id = 1
	if err := cmd.Start(); err != nil {
		_ = conn.SendJSON(wire.Exit, id, wire.ExitStatus{Err: err.Error()})
		return
	}
	go forwardInput(conn, cmd, stdin)
	_ = conn.SendJSON(wire.Exit, id, exitStatus(cmd.Wait()))
}

// accept performs the handshake and prepares the program that the other end requests.
func accept(conn *wire.Conn, m machine) (*guest.Cmd, *io.PipeWriter, error) {
	if err := conn.Send(wire.Hello, 0, nil); err != nil {
		return nil, nil, err
	}
	if _, err := conn.Receive(); err != nil { // Configure: the machine is already set up
		return nil, nil, err
	}
	if err := conn.Send(wire.Ready, 0, nil); err != nil {
		return nil, nil, err
	}
	f, err := conn.Receive()
	if err != nil {
		return nil, nil, err
	}
	var req wire.Command
	if err := json.Unmarshal(f.Payload, &req); err != nil {
		return nil, nil, err
	}
	if f.Type != wire.Start || len(req.Args) == 0 {
		return nil, nil, errors.New("no command")
	}
	cmd := m.Command(req.Args[0], req.Args[1:]...)
	cmd.Env, cmd.Dir, cmd.Terminal = req.Env, req.Dir, req.Terminal
	cmd.Stdout = frameWriter{conn, wire.Stdout, f.ID}
	cmd.Stderr = frameWriter{conn, wire.Stderr, f.ID}
	r, w := io.Pipe()
	if req.HasStdin {
		cmd.Stdin = r
	}
	return cmd, w, nil
}

// forwardInput forwards input and signals. When the other end disconnects, the program gets SIGHUP.
func forwardInput(conn *wire.Conn, cmd *guest.Cmd, stdin *io.PipeWriter) {
	var once sync.Once
	closeInput := func() { _ = stdin.Close() }
	defer once.Do(closeInput)
	for {
		f, err := conn.Receive()
		if err != nil {
			_ = cmd.Signal(syscall.SIGHUP) // the program may have ended, which also ends this loop
			return
		}
		switch {
		case f.Type == wire.Signal && len(f.Payload) == 1:
			_ = cmd.Signal(syscall.Signal(f.Payload[0]))
		case f.Type == wire.Stdin && len(f.Payload) == 0:
			once.Do(closeInput)
		case f.Type == wire.Stdin && cmd.Stdin != nil:
			if _, err := stdin.Write(f.Payload); err != nil {
				return
			}
		}
	}
}

func exitStatus(err error) wire.ExitStatus {
	var exit *guest.ExitError
	switch {
	case err == nil:
		return wire.ExitStatus{}
	case errors.As(err, &exit):
		return wire.ExitStatus{Code: exit.Code, Signal: int(exit.Signal)}
	default:
		return wire.ExitStatus{Err: err.Error()}
	}
}

type frameWriter struct {
	conn *wire.Conn
	kind wire.Type
	id   uint32
}

func (w frameWriter) Write(p []byte) (int, error) {
	return len(p), w.conn.Send(w.kind, w.id, p)
}
