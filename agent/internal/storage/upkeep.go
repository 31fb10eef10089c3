package storage

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/inspect"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// upkeepInterval is how often the pool is looked after. What it looks at costs microseconds.
const upkeepInterval = time.Minute

// upkeep is what the store does by itself: exports that drifted, quotas that became inconsistent, leftovers that could not be
// removed at once, qgroups of deleted subvolumes.
type upkeep struct {
	active     sync.Map    // temporary names in use: not leftovers
	failed     atomic.Bool // something failed since the last look: there may be leftovers
	reap       atomic.Bool // subvolumes were deleted since the last look
	held       heldQgroups // those that could not be removed yet
	reserveLow atomic.Bool // the reserve for references is not full
	pending    sync.Map    // paths of deleted directories whose data is still there, because it is in use
	drifted    atomic.Bool // a change failed: the NFS server may have been told half of it
	exports    atomic.Pointer[error]
	cancel     context.CancelFunc
	finished   chan struct{}
}

func (u *upkeep) start(s *Store) {
	ctx, cancel := context.WithCancel(context.Background())
	u.cancel, u.finished = cancel, make(chan struct{})
	go func() {
		defer close(u.finished)
		u.run(ctx, s)
	}()
}

func (u *upkeep) stop() {
	u.cancel()
	<-u.finished
}

func (u *upkeep) run(ctx context.Context, s *Store) {
	pool := time.NewTicker(upkeepInterval)
	defer pool.Stop()
	exports := time.NewTicker(s.config.ReconcileInterval)
	defer exports.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-pool.C:
			u.lookAfterPool(ctx, s)
		case <-exports.C:
			u.reconcile(ctx, s)
		case <-s.exporter.Changed():
			u.reconcile(ctx, s)
		}
	}
}

func (u *upkeep) reconcile(ctx context.Context, s *Store) {
	err := s.reconcileExports(ctx)
	if err != nil && ctx.Err() == nil {
		s.log.Error("exports cannot be brought in line", "error", err)
	}
	u.exports.Store(&err)
}

func (u *upkeep) exportError() error {
	if err := u.exports.Load(); err != nil {
		return *err
	}
	return nil
}

func (u *upkeep) lookAfterPool(ctx context.Context, s *Store) {
	if s.pool.check() != nil {
		return // Conditions say so
	}
	s.settleAll(ctx)
	s.retryTenants()
	if u.drifted.Swap(false) || u.exportError() != nil {
		u.reconcile(ctx, s)
	}
	if u.reserveLow.Load() {
		s.keepReserve()
	}
	s.rescanQuota()
	s.watchDevices()
	s.NoteScrubFindings()
	if u.failed.Swap(false) {
		for _, t := range s.Tenants() {
			t.sweepLeftovers(t.dir)
			t.sweepLeftovers(t.snapsDir)
		}
	}
	if u.held.due(u.reap.Swap(false)) {
		if err := s.reapQgroups(ctx); err != nil {
			u.reap.Store(true)
			s.log.Warn("stale qgroups are left", "error", err)
		}
	}
}

// rescanQuota cures inconsistent quotas: while they are, limits are not enforced.
func (s *Store) rescanQuota() {
	if s.quota != btrfs.QuotaFull {
		return
	}
	status, err := s.pool.fs.Quota()
	if err != nil || !status.Enabled || !status.Inconsistent || status.Rescanning {
		return
	}
	s.log.Warn("quotas are inconsistent and limits not enforced: rescanning")
	if err := s.pool.fs.StartRescan(); err != nil {
		s.log.Error("the rescan cannot be started", "error", err)
	}
}

// sweepLeftovers tries again what a failed change could not remove. It reads all of the directory, which is why it does so
// only when there may be some.
func (t *Tenant) sweepLeftovers(parent *os.File) {
	names, err := readDir(parent)
	if err != nil {
		return
	}
	for _, name := range names {
		place := inspect.PlaceOf(name, id.ValidateName)
		_, active := t.store.upkeep.active.Load(name)
		if (place == inspect.Staging || place == inspect.Trash) && !active {
			t.removeTemporary(parent, name)
		}
	}
}

// temporary makes a name that is not taken for a leftover until done.
func (u *upkeep) temporary(prefix string) string {
	name := temporaryName(prefix)
	u.active.Store(name, true)
	return name
}

// notRemoved remembers a deleted directory whose data is in use.
func (u *upkeep) notRemoved(path string) {
	u.failed.Store(true)
	u.pending.Store(path, true)
}

// pendingDeletions is how many deleted directories still take space.
func (u *upkeep) pendingDeletions() (n int) {
	u.pending.Range(func(path, _ any) bool {
		if _, err := os.Lstat(path.(string)); errors.Is(err, os.ErrNotExist) {
			u.pending.Delete(path)
		} else {
			n++
		}
		return true
	})
	return n
}

func (u *upkeep) done(name string) { u.active.Delete(name) }

// deleted remembers that there may be qgroups to remove.
func (u *upkeep) deleted() { u.reap.Store(true) }
