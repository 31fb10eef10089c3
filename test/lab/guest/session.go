// Package guest runs programs in a machine of the lab, whatever that machine is made of.
package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/lab/internal/wire"
)

// ErrGone is the error of a command whose machine ended before it did.
var ErrGone = errors.New("the machine is gone")

// Session is the connection to a running machine. Its methods may be called by several goroutines.
type Session struct {
	conn *wire.Conn

	mu     sync.Mutex
	nextID uint32
	cmds   map[uint32]*Cmd
	gone   bool
}

// Open shakes hands with a machine that has just been started and tells it what to become.
// It returns when commands can be run, or with ctx's error.
func Open(ctx context.Context, stream io.ReadWriteCloser, setup wire.Setup) (*Session, error) {
	s := &Session{conn: wire.NewConn(stream), cmds: map[uint32]*Cmd{}}
	opened := make(chan error, 1)
	go func() { opened <- s.handshake(setup) }()
	select {
	case err := <-opened:
		if err != nil {
			return nil, err
		}
	case <-ctx.Done():
		_ = stream.Close() // ends the handshake
		<-opened
		return nil, fmt.Errorf("waiting for the machine: %w", context.Cause(ctx))
	}
	go s.receive()
	return s, nil
}

func (s *Session) handshake(setup wire.Setup) error {
	if _, err := s.expect(wire.Hello); err != nil {
		return err
	}
	if err := s.conn.SendJSON(wire.Configure, 0, setup); err != nil {
		return err
	}
	ready, err := s.expect(wire.Ready)
	if err != nil {
		return err
	}
	if len(ready.Payload) > 0 {
		return fmt.Errorf("machine setup: %s", ready.Payload)
	}
	return nil
}

func (s *Session) expect(want wire.Type) (wire.Frame, error) {
	f, err := s.conn.Receive()
	if err != nil {
		return f, fmt.Errorf("%w before it was ready: %w", ErrGone, err)
	}
	if f.Type != want {
		return f, fmt.Errorf("machine sent %q, not %q", f.Type, want)
	}
	return f, nil
}

// PowerOff asks the machine to sync, unmount and halt; it does not wait.
func (s *Session) PowerOff() error {
	return s.conn.Send(wire.PowerOff, 0, nil)
}

// receive hands frames to their commands until the stream ends.
func (s *Session) receive() {
	for {
		f, err := s.conn.Receive()
		if err != nil {
			break
		}
		s.mu.Lock()
		cmd := s.cmds[f.ID]
		if f.Type == wire.Exit {
			delete(s.cmds, f.ID)
		}
		s.mu.Unlock()
		if cmd != nil {
			cmd.queue.put(f)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
	for id, cmd := range s.cmds {
		delete(s.cmds, id)
		cmd.queue.close()
	}
}

func (s *Session) register(cmd *Cmd) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return ErrGone
	}
	s.nextID++
	cmd.id = s.nextID
	s.cmds[cmd.id] = cmd
	return nil
}

func (s *Session) forget(cmd *Cmd) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.cmds, cmd.id)
}
