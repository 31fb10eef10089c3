package storage

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// Locks order the operations on one name. Each name has two, for its contents and for its
// references. An operation takes them in one of three ways:
//
//	                                        contents   references
//	changing   create, clone to, patch,
//	           delete, load from disk       alone      alone
//	copying    snapshot of, clone of        shared     -
//	referring  export, unexport, reconcile  -          alone
//
// An export or unexport writes references, metadata.json and the catalogue, but not the contents. A
// snapshot or clone only reads the contents, and waits until the kernel has written them to the
// disk. So these two kinds do not wait for each other. All other operations on one name exclude each
// other:
//
//   - Only one operation at a time writes the metadata and the catalogue of a volume, because all
//     that do hold the lock for references.
//   - A deletion finds no reference that an export is about to write, and an export no volume that
//     is being deleted.
//   - Settings do not change while a snapshot copies them.
//   - A name in doubt is loaded from disk by a changing operation. Another one that finds its name in
//     doubt becomes changing. So no copy has what a change has left that failed.
//
// Locks are taken in the order of the names, contents before references. An operation that waits
// for contents therefore holds no references of the same name, and keeps no unexport waiting.
type nameLocks struct {
	mu    sync.Mutex
	locks map[string]*nameLock
}

// nameLock is fair, and waiting ends with the caller's context.
type nameLock struct {
	contents   *semaphore.Weighted
	references *semaphore.Weighted
	users      int // holders and waiters; the lock is forgotten with the last
}

// claim is a name and how it is wanted.
type claim struct {
	key    string
	use    use
	reload func() error // loads the name from disk, as at start: see doubts

	// quarantined reports whether what has the name is quarantined.
	quarantined func() bool
}

// use is the way in which an operation takes the locks of a name.
type use int

const (
	changing use = iota
	copying
	referring
)

const allCopying = 1 << 30

// acquire takes all claims, in the order of their keys so that no two callers wait for each other, and returns what
// gives them back.
func (l *nameLocks) acquire(ctx context.Context, claims ...claim) (release func(), err error) {
	claims = slices.Clone(claims)
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
		lock = &nameLock{contents: semaphore.NewWeighted(allCopying), references: semaphore.NewWeighted(1)}
		l.locks[c.key] = lock
	}
	lock.users++
	l.mu.Unlock()
	err := lock.acquire(ctx, c.use)
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
		lock.release(c.use)
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

func (l *nameLock) acquire(ctx context.Context, u use) error {
	switch u {
	case copying:
		return l.contents.Acquire(ctx, 1)
	case referring:
		return l.references.Acquire(ctx, 1)
	default:
		if err := l.contents.Acquire(ctx, allCopying); err != nil {
			return err
		}
		err := l.references.Acquire(ctx, 1)
		if err != nil {
			l.contents.Release(allCopying)
		}
		return err
	}
}

func (l *nameLock) release(u use) {
	switch u {
	case copying:
		l.contents.Release(1)
	case referring:
		l.references.Release(1)
	default:
		l.references.Release(1)
		l.contents.Release(allCopying)
	}
}
