package guest

import (
	"sync"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/internal/wire"
)

// queue holds the frames of one command. It has no limit: a command with unread output must not
// block the others, which share its stream.
type queue struct {
	mu     sync.Mutex
	more   sync.Cond
	frames []wire.Frame
	closed bool
}

func newQueue() *queue {
	q := &queue{}
	q.more.L = &q.mu
	return q
}

func (q *queue) put(f wire.Frame) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.frames = append(q.frames, f)
	q.more.Signal()
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.more.Signal()
}

// get returns the next frame. It returns false once the queue is closed and empty.
func (q *queue) get() (wire.Frame, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.frames) == 0 && !q.closed {
		q.more.Wait()
	}
	if len(q.frames) == 0 {
		return wire.Frame{}, false
	}
	f := q.frames[0]
	q.frames = q.frames[1:]
	return f, true
}
