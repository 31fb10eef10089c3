// Package guest runs programs in a machine of the lab, for all kinds of machine.
package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/internal/wire"
)

// ErrGone is the error of a command whose machine ended before it did.
var ErrGone = errors.New("the machine is gone")

// Session is the connection to a running machine. It is safe for concurrent use.
type Session struct {
	conn  *wire.Conn
	setup chan wire.Frame // the machine's part of the handshake

	mu     sync.Mutex
	nextID uint32
	cmds   map[uint32]*Cmd
	gone   bool
}

// Open performs the handshake with a machine that has just started and sends it the setup. It
// returns when the machine accepts commands, or with ctx's error.
func Open(ctx context.Context, stream io.ReadWriteCloser, setup wire.Setup) (*Session, error) {
	s := &Session{
		conn:  wire.NewConn(stream),
		setup: make(chan wire.Frame, 2), // the handshake has two frames
		cmds:  map[uint32]*Cmd{},
	}
	go s.receive()
	if err := s.handshake(ctx, setup); err != nil {
		_ = stream.Close() // ends receive
		return nil, err
	}
	return s, nil
}

func (s *Session) handshake(ctx context.Context, setup wire.Setup) error {
	if _, err := s.expect(ctx, wire.Hello); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, s.conn.Break)
	err := s.conn.SendJSON(wire.Configure, 0, setup)
	stop()
	if err != nil {
		return err
	}
	ready, err := s.expect(ctx, wire.Ready)
	if err != nil {
		return err
	}
	if len(ready.Payload) > 0 {
		return fmt.Errorf("machine setup: %s", ready.Payload)
	}
	return nil
}

func (s *Session) expect(ctx context.Context, want wire.Type) (wire.Frame, error) {
	select {
	case f, ok := <-s.setup:
		if !ok {
			return f, fmt.Errorf("%w before it was ready", ErrGone)
		}
		if f.Type != want {
			return f, fmt.Errorf("machine sent %q, not %q", f.Type, want)
		}
		return f, nil
	case <-ctx.Done():
		return wire.Frame{}, fmt.Errorf("waiting for the machine: %w", context.Cause(ctx))
	}
}

// PowerOff asks the machine to sync, unmount and halt, and does not wait for that. A machine that
// hangs does not read the request. When ctx ends first, the session can no longer send.
func (s *Session) PowerOff(ctx context.Context) error {
	stop := context.AfterFunc(ctx, s.conn.Break)
	defer stop()
	return s.conn.Send(wire.PowerOff, 0, nil)
}

// receive passes frames to their commands until the stream ends.
func (s *Session) receive() {
	for {
		f, err := s.conn.Receive()
		if err != nil {
			break
		}
		if f.Type == wire.Hello || f.Type == wire.Ready {
			select {
			case s.setup <- f:
			default: // more frames than the handshake has
			}
			continue
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
	close(s.setup)
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
