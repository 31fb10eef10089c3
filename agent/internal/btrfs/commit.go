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

// Commit makes every change to the trees durable that finished before the call:
//
//   - subvolumes and snapshots that were created or destroyed
//   - files that were created, renamed or removed
//   - modes, owners, xattrs and quota limits
//   - the content of files that FlushFile was called on
//
// Commit does not write out file data that is still in the page cache. That makes it cheap compared
// to syncfs while clients write. A file that was written but not flushed has its name after a power
// cut, but no content.
//
// Callers that arrive while a commit runs all share the next commit. Any number of concurrent calls
// costs two commits. If callers shared the last commit, the next one waits a short time for the
// same callers.
//
// After an error nothing is known to be durable. The error is EROFS or EIO if btrfs aborted the
// transaction. The filesystem then stays read-only until it is mounted again. The kernel cannot
// cancel a commit: when ctx ends first, Commit returns the error of ctx and the commit continues.
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

// commitGroup lets callers share commits. The zero value is ready to use.
type commitGroup struct {
	mu      sync.Mutex
	running bool
	next    *commitRound // the round that callers join; nil if there is none
	last    pace
}

type commitRound struct {
	done    chan struct{}
	err     error // valid once done is closed
	callers int   // callers that have joined
	enough  int   // number of callers that are expected; 0 while unknown
	full    chan struct{}
}

// pace holds how many callers shared the last commit, and how long it took.
type pace struct {
	callers int
	took    time.Duration
}

// join returns a round that has not begun. Its commit covers everything that the caller did before.
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

// run runs one round after the other until no caller is waiting.
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

// linger waits for the callers of the last round to come back, if there were several. It waits for
// at most half of the time that the round took, and never for more than 10 ms.
//
// Without the wait, clients that make one change after the other split into two halves. Each half
// works while the commit of the other half runs, and the number of commits doubles. A single caller
// is not waited for.
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

// commitNow requests a commit of the running transaction and waits until its superblocks are on
// disk. START_SYNC attaches to the running transaction. If there is none, it waits for the
// transaction that is being committed (btrfs_attach_transaction_barrier in fs/btrfs/transaction.c).
func (fs *FS) commitNow() error {
	transaction, err := fs.startCommit()
	if err != nil {
		return err
	}
	err = ioctl(fs.dir, iocWaitSync, unsafe.Pointer(&transaction))
	if errors.Is(err, unix.EINVAL) {
		// The kernel knows no running or finished transaction of this number. The transaction was
		// aborted, and the kernel dropped it before this call (btrfs_wait_for_commit in
		// fs/btrfs/transaction.c).
		err = fmt.Errorf("the transaction was aborted: %w", unix.EIO)
	}
	return errors.Join(fs.checkNotAborted(), err)
}

// startCommit returns the number of the transaction that is being committed.
//
// Since Linux 5.17, START_SYNC sets a flag, wakes the kernel thread that commits, and waits until
// the commit has begun (btrfs_commit_transaction_async). A thread that is still finishing the last
// commit does not check the flag again before it sleeps for the commit interval, 30 s by default
// (transaction_kthread in fs/btrfs/disk-io.c). The wake-up is then lost, and the commit starts up
// to 30 s late. Another START_SYNC wakes the thread again. It does no harm if the first one is only
// slow. The intervals double, so a commit that needs a minute to begin has about 14 calls waiting
// for it, not thousands.
func (fs *FS) startCommit() (uint64, error) {
	const firstNudge = 4 * time.Millisecond // a commit that is not delayed begins within this time
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

// nudge requests a commit only to wake the kernel thread for earlier requests.
func (fs *FS) nudge() {
	fs.nudges.Add(1)
	go func() {
		defer fs.nudges.Add(-1)
		_, _ = fs.startSync()
	}()
}

// endNudges waits for nudges that came too late for their commit. Such a nudge requests another
// commit, which the kernel may delay too. Until the nudges return, they keep the descriptor open.
// endNudges gives up after half a second.
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
// Linux 6.6 ("btrfs: check if the transaction was aborted at btrfs_wait_for_commit()",
// bf7ecbe98750, also in the stable series from 4.19 on). An abort turns the filesystem read-only
// before it wakes the waiting callers, so this check works on every kernel.
func (fs *FS) checkNotAborted() error {
	readOnly, err := fs.ReadOnly()
	if err != nil {
		return err
	}
	if readOnly {
		return fmt.Errorf("the filesystem is read-only: %w", unix.EROFS)
	}
	return nil
}
