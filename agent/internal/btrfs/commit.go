package btrfs

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Commit makes durable every change to the trees that was finished before the call: subvolumes and
// snapshots made or destroyed, files made, renamed and removed, modes, owners, xattrs, quota limits,
// and the content of files that FlushFile was called on.
//
// It does not write out file data that still waits in the page cache, of anybody: that is what makes
// it cheap beside syncfs while clients write. A file that was written but not flushed has its name
// after a power cut, and no content.
//
// Calls that come while one commit runs all wait for the next, so that any number of them costs two. Where the last
// commit was shared, the next waits a little for those who shared it.
//
// An error means that nothing is known to be durable. It is EROFS or EIO if btrfs aborted the
// transaction, after which the filesystem stays read-only until it is mounted again. The kernel cannot
// be told to give up: when ctx ends first, Commit returns ctx's error and the commit goes on.
func (fs *FS) Commit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return failed("commit", "", err)
	}
	round := fs.commits.join(fs.commitNow)
	select {
	case <-round.done:
		return failed("commit", "", round.err)
	case <-ctx.Done():
		return failed("commit", "", ctx.Err())
	}
}

// commitGroup lets callers share commits. The zero value is ready.
type commitGroup struct {
	mu      sync.Mutex
	running bool
	next    *commitRound // that callers are joining; nil if there are none
	last    pace
}

type commitRound struct {
	done    chan struct{}
	err     error // valid once done is closed
	callers int   // that have joined
	enough  int   // callers at which no more are expected; 0 while that is not known
	full    chan struct{}
}

// pace is how many shared the last commit, and how long it took.
type pace struct {
	callers int
	took    time.Duration
}

// join returns a round that has not begun: it will see what the caller has done until now.
func (g *commitGroup) join(commit func() error) *commitRound {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.next == nil {
		g.next = &commitRound{done: make(chan struct{}), full: make(chan struct{})}
	}
	g.next.callers++
	if g.next.callers == g.next.enough {
		close(g.next.full)
	}
	if !g.running {
		g.running = true
		g.next.enough = g.last.callers
		go g.run(commit)
	}
	return g.next
}

// run does one round after the other until nobody waits.
func (g *commitGroup) run(commit func() error) {
	for {
		g.linger()
		g.mu.Lock()
		round := g.next
		g.next = nil
		g.mu.Unlock()
		begin := time.Now()
		round.err = commit()
		close(round.done)

		g.mu.Lock()
		g.last = pace{round.callers, time.Since(begin)}
		g.running = g.next != nil
		if !g.running {
			g.mu.Unlock()
			return
		}
		g.next.enough = g.next.callers + round.callers
		g.mu.Unlock()
	}
}

// linger waits for the callers of the last round to come back, if they were several, for at most half of what it took and
// never for more than 10 ms.
//
// Clients that make one change after the other would else fall into two halves, each at work while the other's commit is under
// way, and cost twice the commits. A caller who was alone is not waited for.
func (g *commitGroup) linger() {
	g.mu.Lock()
	round, last := g.next, g.last
	complete := last.callers < 2 || round.callers >= round.enough
	g.mu.Unlock()
	if complete {
		return
	}
	select {
	case <-round.full:
	case <-time.After(min(last.took/2, 10*time.Millisecond)):
	}
}

// commitNow asks for the commit of the transaction that is running now, and waits until its superblocks
// are on disk. START_SYNC attaches to the running transaction or, if there is none, waits for the one
// that is being committed (btrfs_attach_transaction_barrier in fs/btrfs/transaction.c).
func (fs *FS) commitNow() error {
	transaction, err := fs.startCommit()
	if err != nil {
		return err
	}
	err = ioctl(fs.dir, iocWaitSync, unsafe.Pointer(&transaction))
	if errors.Is(err, unix.EINVAL) {
		// The number is neither that of a transaction nor of one that is done: it was aborted, and
		// forgotten before we asked (btrfs_wait_for_commit in fs/btrfs/transaction.c).
		err = fmt.Errorf("the transaction was aborted: %w", unix.EIO)
	}
	return errors.Join(fs.checkNotAborted(), err)
}

// startCommit returns the number of the transaction that is being committed.
//
// Since Linux 5.17, START_SYNC sets a flag, wakes the kernel thread that commits, and waits until that
// has begun (btrfs_commit_transaction_async). But a thread that is still busy with the end of the last
// commit does not look at the flag again before it sleeps for the commit interval, 30 s by default
// (transaction_kthread in fs/btrfs/disk-io.c): the wake-up is lost, and with it 30 s. Another START_SYNC
// wakes it again; it does no harm where the first one is merely slow. The intervals double, so that
// a commit that takes a minute to begin has some 14 calls waiting for it, not thousands.
func (fs *FS) startCommit() (uint64, error) {
	const firstNudge = 4 * time.Millisecond // a commit that is not held up has begun by then
	type result struct {
		transaction uint64
		err         error
	}
	first := make(chan result, 1)
	go func() {
		transaction, err := fs.startSync()
		first <- result{transaction, err}
	}()
	interval := firstNudge
	timer := time.NewTimer(interval)
	defer timer.Stop()
	for {
		select {
		case r := <-first:
			return r.transaction, r.err
		case <-timer.C:
			fs.nudge()
			interval *= 2
			timer.Reset(interval)
		}
	}
}

// nudge asks for a commit only for the effect on those who have asked already.
func (fs *FS) nudge() {
	fs.nudges.Add(1)
	go func() {
		defer fs.nudges.Add(-1)
		_, _ = fs.startSync()
	}()
}

// endNudges waits for nudges that came too late for the commit they were for, and so asked for one more, which may be held up
// in its turn: until they return they keep the descriptor open. It gives up after half a second.
func endNudges(waiting *atomic.Int32, nudge func()) {
	for interval := time.Millisecond; waiting.Load() > 0 && interval < time.Second/2; interval *= 2 {
		time.Sleep(interval)
		if waiting.Load() > 0 {
			nudge()
		}
	}
}

func (fs *FS) startSync() (uint64, error) {
	var transaction uint64
	err := ioctl(fs.dir, iocStartSync, unsafe.Pointer(&transaction))
	return transaction, err
}

// checkNotAborted tells a commit from an abort. WAIT_SYNC returned 0 for aborted transactions until
// Linux 6.6 ("btrfs: check if the transaction was aborted at btrfs_wait_for_commit()", bf7ecbe98750,
// also in the stable series from 4.19 on). An abort turns the filesystem read-only before it wakes
// those who wait, so this check sees it on every kernel.
func (fs *FS) checkNotAborted() error {
	readOnly, err := fs.ReadOnly()
	if err != nil {
		return err
	}
	if readOnly {
		return fmt.Errorf("the filesystem takes no changes: %w", unix.EROFS)
	}
	return nil
}
