package storage

import (
	"cmp"
	"context"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// Every change of a volume or snapshot goes through Store.change, in these steps:
//
//  1. The change is counted as in flight. Drain refuses new changes, and Close waits until none is
//     in flight. Invariant: a change that has started finishes, even if its request is canceled.
//  2. The change takes the locks of its names, sorted by name, so that no two changes deadlock. The
//     wait ends with the context of the request.
//  3. Names that are marked for a reload are loaded from disk, as at start, and committed.
//     Invariant: no reply depends on state that a power cut could still revert. A change that was
//     left incomplete is finished or undone without a restart.
//  4. The change does its work. A create or delete holds the create semaphore while it works on the
//     trees, but not while it waits for a commit. Snapshots and clones do not take the semaphore:
//     they commit inside their ioctl, and should share one commit.
//  5. If the change fails with anything but a refusal, it is unknown which part of it is on disk,
//     and whether that part is durable. All its names are marked for a reload, except names that it
//     only copied.
//  6. The change releases the locks, and is no longer in flight.
//
// Each name has two locks, one for its contents and one for its references. A change takes them in
// one of three ways:
//
//	                                        contents   references
//	changing   create, clone to, patch,
//	           delete, load from disk       exclusive  exclusive
//	copying    snapshot of, clone of        shared     -
//	referring  export, unexport, reconcile  -          exclusive
//
// An export or unexport writes references, metadata.json and the catalogue, but not the contents. A
// snapshot or clone only reads the contents, and waits until the kernel has written them to the
// disk. So these two kinds do not wait for each other. All other changes of one name exclude each
// other:
//
//   - Only one change at a time writes the metadata and the catalogue entry of a volume, because
//     all such changes hold the lock for references.
//   - A deletion never misses a reference that an export is about to write. An export never finds a
//     volume that is being deleted.
//   - Properties do not change while a snapshot copies them.
//   - Only a changing lock allows a reload. A change that finds its name marked takes the locks
//     again as changing. So no copy contains the remains of a failed change.
//
// The lock for contents comes before the lock for references. A change that waits for contents
// therefore holds no references of the same name, and delays no unexport.

// change verifies the pool and runs do with the names locked.
func (s *Store) change(ctx context.Context, do func(context.Context) error, locks ...nameLock) error {
	end, err := s.inFlight.begin()
	if err != nil {
		return err
	}
	defer end()
	release, err := s.locks.acquire(ctx, locks...)
	if err == nil && s.reloads.needChanging(locks) {
		release()
		locks = asChanging(locks)
		release, err = s.locks.acquire(ctx, locks...)
	}
	if err != nil {
		return err
	}
	defer release()
	if err := s.pool.Check(); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	if err := s.reloadMarked(ctx, locks); err != nil {
		return classify(err)
	}
	err = do(ctx)
	if err != nil {
		s.maintenance.failed.Store(true)
	}
	if err != nil && !isCoded(err) {
		s.reloads.mark(locks...)
		s.maintenance.drifted.Store(true)
	}
	return classify(err)
}

// reloadMarked loads the locked names that are marked.
func (s *Store) reloadMarked(ctx context.Context, locks []nameLock) error {
	for _, l := range locks {
		if l.use != changing || !s.reloads.take(l) {
			continue
		}
		quarantined := l.quarantined()
		err := l.reload() // may mark the name again
		if quarantined && l.quarantined() {
			continue // the change wrote nothing
		}
		s.maintenance.drifted.Store(true) // the references may have changed, too
		if err == nil {
			err = s.pool.Commit(ctx)
		}
		if err != nil {
			s.reloads.mark(l)
			return err
		}
	}
	return nil
}

// reloadAll loads the marked names that no request has loaded.
func (s *Store) reloadAll(ctx context.Context) {
	for _, l := range s.reloads.all() {
		if err := s.change(ctx, func(context.Context) error { return nil }, l); err != nil {
			s.log.Warn("it is still open what a failed change left", "name", l.key, "error", err)
		}
	}
}

// inFlight counts running changes.
type inFlight struct {
	mu      sync.Mutex
	count   int
	drained chan struct{} // nil until drain; closed when the count reaches zero after that
}

var errDraining = agentapi.Errorf(agentapi.Unavailable, "the agent is shutting down")

func (f *inFlight) begin() (end func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.drained != nil {
		return nil, errDraining
	}
	f.count++
	return f.end, nil
}

func (f *inFlight) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count--
	if f.drained != nil && f.count == 0 {
		close(f.drained)
	}
}

// drain refuses new changes.
func (f *inFlight) drain() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.drained != nil {
		return
	}
	f.drained = make(chan struct{})
	if f.count == 0 {
		close(f.drained)
	}
}

func (f *inFlight) isDraining() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.drained != nil
}

// wait drains, and returns when the last change has ended or ctx ends.
func (f *inFlight) wait(ctx context.Context) error {
	f.drain()
	select {
	case <-f.drained:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// createSemaphore limits concurrent creates and deletes on the trees to about the number of cores.
// More would not be faster. The kernel serializes changes of a directory and of a qgroup. Waiting
// threads spin (mutex_spin_on_owner in kernel/locking/mutex.c) and switch, which costs more than
// the work itself.
type createSemaphore chan struct{}

func newCreateSemaphore() createSemaphore {
	return make(createSemaphore, max(2, runtime.GOMAXPROCS(0)))
}

func (s createSemaphore) hold(do func() error) error {
	s <- struct{}{}
	defer func() { <-s }()
	return do()
}

// nameLock is a name and the way in which a change takes its locks.
type nameLock struct {
	key    string
	use    use
	reload func() error // loads the name from disk, as at start

	// quarantined reports whether the volume or snapshot of that name is quarantined.
	quarantined func() bool
}

type use int

const (
	changing use = iota
	copying
	referring
)

func (l nameLock) as(u use) nameLock {
	l.use = u
	return l
}

func asChanging(locks []nameLock) []nameLock {
	out := slices.Clone(locks)
	for i := range out {
		out[i].use = changing
	}
	return out
}

func (t *Tenant) volumeLock(name string) nameLock {
	return nameLock{
		key:    t.name + "/" + name,
		reload: func() error { return t.reloadVolume(name) },
		quarantined: func() bool {
			v, _ := t.volumes.get(name)
			return v.Quarantine != ""
		},
	}
}

func (t *Tenant) snapshotLock(name string) nameLock {
	return nameLock{
		key: t.name + "/snapshots/" + name,
		reload: func() error {
			t.loadSnapshot(name)
			return nil
		},
		quarantined: func() bool {
			s, _ := t.snapshots.get(name)
			return s.Quarantine != ""
		},
	}
}

// nameLocks holds the locks that are held or waited for.
type nameLocks struct {
	mu    sync.Mutex
	pairs map[string]*lockPair
}

// lockPair is fair. A wait ends with the context of the caller.
type lockPair struct {
	contents   *semaphore.Weighted
	references *semaphore.Weighted
	users      int // holders and waiters; the last one removes the pair
}

const allCopying = 1 << 30

// acquire takes all locks, in the order of their keys. It returns a function that releases them.
func (n *nameLocks) acquire(ctx context.Context, locks ...nameLock) (release func(), err error) {
	locks = slices.Clone(locks)
	slices.SortFunc(locks, func(a, b nameLock) int { return cmp.Compare(a.key, b.key) })
	for i, l := range locks {
		if err := n.acquireOne(ctx, l); err != nil {
			n.release(locks[:i])
			return nil, agentapi.Errorf(agentapi.Unavailable, "another change of the same name is still under way: %w", err)
		}
	}
	return func() { n.release(locks) }, nil
}

func (n *nameLocks) acquireOne(ctx context.Context, l nameLock) error {
	n.mu.Lock()
	pair := n.pairs[l.key]
	if pair == nil {
		pair = &lockPair{contents: semaphore.NewWeighted(allCopying), references: semaphore.NewWeighted(1)}
		n.pairs[l.key] = pair
	}
	pair.users++
	n.mu.Unlock()
	err := pair.acquire(ctx, l.use)
	if err != nil {
		n.forget(l.key, pair)
	}
	return err
}

func (n *nameLocks) release(locks []nameLock) {
	for _, l := range slices.Backward(locks) {
		n.mu.Lock()
		pair := n.pairs[l.key]
		n.mu.Unlock()
		pair.release(l.use)
		n.forget(l.key, pair)
	}
}

func (n *nameLocks) forget(key string, pair *lockPair) {
	n.mu.Lock()
	defer n.mu.Unlock()
	pair.users--
	if pair.users == 0 {
		delete(n.pairs, key)
	}
}

func (p *lockPair) acquire(ctx context.Context, u use) error {
	switch u {
	case copying:
		return p.contents.Acquire(ctx, 1)
	case referring:
		return p.references.Acquire(ctx, 1)
	default:
		if err := p.contents.Acquire(ctx, allCopying); err != nil {
			return err
		}
		err := p.references.Acquire(ctx, 1)
		if err != nil {
			p.contents.Release(allCopying)
		}
		return err
	}
}

func (p *lockPair) release(u use) {
	switch u {
	case copying:
		p.contents.Release(1)
	case referring:
		p.references.Release(1)
	default:
		p.references.Release(1)
		p.contents.Release(allCopying)
	}
}

// reloads are the names to load from disk before their next change.
type reloads struct {
	locks sync.Map // key -> nameLock
}

// mark marks the names, except those that were only copied.
func (r *reloads) mark(locks ...nameLock) {
	for _, l := range locks {
		if l.use != copying {
			r.locks.Store(l.key, l.as(changing))
		}
	}
}

// take reports whether the name is marked, and removes the mark.
func (r *reloads) take(l nameLock) bool {
	_, marked := r.locks.LoadAndDelete(l.key)
	return marked
}

// forgetTenant removes the marks of a tenant that could not be loaded. Their locks would reload
// into a discarded Tenant, and the next load reads all names of the tenant.
func (r *reloads) forgetTenant(name string) {
	for _, l := range r.all() {
		if strings.HasPrefix(l.key, name+"/") {
			r.locks.Delete(l.key)
		}
	}
}

// needChanging reports whether a marked name has a lock that does not allow a reload.
func (r *reloads) needChanging(locks []nameLock) bool {
	return slices.ContainsFunc(locks, func(l nameLock) bool {
		_, marked := r.locks.Load(l.key)
		return marked && l.use != changing
	})
}

func (r *reloads) all() []nameLock {
	var out []nameLock
	r.locks.Range(func(_, l any) bool {
		out = append(out, l.(nameLock))
		return true
	})
	return out
}
