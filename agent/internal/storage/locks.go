package storage

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// nameLocks serialises changes by name: one writer, or any number of readers, of each. Waiting is fair and ends with the
// caller's context.
type nameLocks struct {
	mu    sync.Mutex
	locks map[string]*nameLock
}

type nameLock struct {
	sem   *semaphore.Weighted
	users int // holders and waiters; the lock is forgotten with the last
}

// claim is a name and how it is wanted.
type claim struct {
	key    string
	shared bool
	reload func() error // loads the name from disk, as at start: see doubts

	// quarantined reports whether what has the name is quarantined.
	quarantined func() bool
}

const allReaders = 1 << 30

func (c claim) weight() int64 {
	if c.shared {
		return 1
	}
	return allReaders
}

// acquire takes all claims, in the order of their keys so that no two callers wait for each other, and returns what
// gives them back.
func (l *nameLocks) acquire(ctx context.Context, claims ...claim) (release func(), err error) {
	slices.SortFunc(claims, func(a, b claim) int { return cmp.Compare(a.key, b.key) })
	for i, c := range claims {
		if err := l.acquireOne(ctx, c); err != nil {
			l.release(claims[:i])
			return nil, agentapi.Errorf(agentapi.Unavailable, "another change of the same name is still under way: %w", err)
		}
	}
	return func() { l.release(claims) }, nil
}

func (l *nameLocks) acquireOne(ctx context.Context, c claim) error {
	l.mu.Lock()
	lock := l.locks[c.key]
	if lock == nil {
		lock = &nameLock{sem: semaphore.NewWeighted(allReaders)}
		l.locks[c.key] = lock
	}
	lock.users++
	l.mu.Unlock()
	err := lock.sem.Acquire(ctx, c.weight())
	if err != nil {
		l.forget(c.key, lock)
	}
	return err
}

func (l *nameLocks) release(claims []claim) {
	for _, c := range slices.Backward(claims) {
		l.mu.Lock()
		lock := l.locks[c.key]
		l.mu.Unlock()
		lock.sem.Release(c.weight())
		l.forget(c.key, lock)
	}
}

func (l *nameLocks) forget(key string, lock *nameLock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lock.users--
	if lock.users == 0 {
		delete(l.locks, key)
	}
}
