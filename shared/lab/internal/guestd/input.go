package guestd

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/internal/wire"
)

// inputQueue holds the unread input of a program, so that a slow reader does not block other
// programs.
type inputQueue struct {
	mu     sync.Mutex
	more   sync.Cond
	chunks [][]byte
	closed bool
}

func newInputQueue() *inputQueue {
	q := &inputQueue{}
	q.more.L = &q.mu
	return q
}

// put appends input. An empty chunk ends the input.
func (q *inputQueue) put(p []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(p) == 0 {
		q.closed = true
	} else {
		q.chunks = append(q.chunks, p)
	}
	q.more.Signal()
}

func (q *inputQueue) get() ([]byte, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.chunks) == 0 && !q.closed {
		q.more.Wait()
	}
	if len(q.chunks) == 0 {
		return nil, false
	}
	p := q.chunks[0]
	q.chunks = q.chunks[1:]
	return p, true
}

// copyTo writes the input to f until it ends or f fails. Then it closes f if closeAfter is set.
func (q *inputQueue) copyTo(f *os.File, closeAfter bool) {
	for {
		p, ok := q.get()
		if !ok {
			break
		}
		if _, err := f.Write(p); err != nil {
			break
		}
	}
	if closeAfter {
		_ = f.Close()
	}
}

// openTerminal creates a pseudo-terminal pair (pty(7)).
func openTerminal(size wire.Size) (ours, theirs *os.File, err error) {
	ours, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	fd := int(ours.Fd())
	if err = unix.SetNonblock(fd, true); err == nil { // Fd made the descriptor blocking
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	var n int
	if err == nil {
		n, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Cols})
	}
	if err == nil {
		theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		_ = ours.Close()
		return nil, nil, fmt.Errorf("pseudo-terminal: %w", err)
	}
	return ours, theirs, nil
}
