package storage

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/inspect"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// maintenanceInterval is how often maintenance runs. Its checks take microseconds.
const maintenanceInterval = time.Minute

// maintenance is the background work of the store. It handles drifted exports, inconsistent quotas,
// leftovers that could not be removed at once, and qgroups of deleted subvolumes.
type maintenance struct {
	active   sync.Map    // temporary names in use, which are no leftovers
	failed   atomic.Bool // a change or removal failed since the last run: there may be leftovers
	reap     atomic.Bool // subvolumes were deleted since the last run
	pending  sync.Map    // paths of deleted directories with data that is in use
	drifted  atomic.Bool // a change failed: the NFS server may have a part of it
	exports  atomic.Pointer[error]
	cancel   context.CancelFunc
	finished chan struct{}
}

func (m *maintenance) start(s *Store) {
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel, m.finished = cancel, make(chan struct{})
	go func() {
		defer close(m.finished)
		m.run(ctx, s)
	}()
}

func (m *maintenance) stop() {
	m.cancel()
	<-m.finished
}

func (m *maintenance) run(ctx context.Context, s *Store) {
	pool := time.NewTicker(maintenanceInterval)
	defer pool.Stop()
	exports := time.NewTicker(s.config.ReconcileInterval)
	defer exports.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-pool.C:
			m.maintainPool(ctx, s)
		case <-exports.C:
			m.reconcile(ctx, s)
		case <-s.exporter.Changed():
			m.reconcile(ctx, s)
		}
	}
}

func (m *maintenance) reconcile(ctx context.Context, s *Store) {
	err := s.reconcileExports(ctx)
	if err != nil && ctx.Err() == nil {
		s.log.Error("exports cannot be brought in line", "error", err)
	}
	m.exports.Store(&err)
}

func (m *maintenance) exportError() error {
	if err := m.exports.Load(); err != nil {
		return *err
	}
	return nil
}

func (m *maintenance) maintainPool(ctx context.Context, s *Store) {
	if s.pool.Check() != nil {
		return // Conditions report it
	}
	s.reloadAll(ctx)
	s.retryTenants()
	if m.drifted.Swap(false) || m.exportError() != nil {
		m.reconcile(ctx, s)
	}
	if s.pool.ReserveLow() {
		s.pool.FillReserve()
	}
	s.pool.KeepConsistent()
	s.pool.WatchDevices()
	s.pool.NoteScrubFindings()
	if m.failed.Swap(false) {
		for _, t := range s.Tenants() {
			t.removeLeftovers(t.dir)
			t.removeLeftovers(t.snapsDir)
		}
	}
	if s.pool.QgroupsDue(m.reap.Swap(false)) {
		if err := s.removeQgroups(ctx); err != nil {
			m.reap.Store(true)
			s.log.Warn("stale qgroups are left", "error", err)
		}
	}
}

// removeLeftovers tries again to remove the leftovers of failed changes. It reads the whole
// directory, so it runs only if there may be leftovers.
func (t *Tenant) removeLeftovers(parent *os.File) {
	names, err := ondisk.ReadDir(parent)
	if err != nil {
		return
	}
	for _, name := range names {
		place := inspect.PlaceOf(name, id.ValidateName)
		_, active := t.store.maintenance.active.Load(name)
		if (place == inspect.Staging || place == inspect.Trash) && !active {
			t.removeTemporary(parent, name)
		}
	}
}

// newTemporaryName returns a name that does not count as a leftover until done.
func (m *maintenance) newTemporaryName(prefix string) string {
	name := ondisk.TemporaryName(prefix)
	m.active.Store(name, true)
	return name
}

// removeLater remembers a deleted directory whose data is in use.
func (m *maintenance) removeLater(path string) {
	m.failed.Store(true)
	m.pending.Store(path, true)
}

// pendingDeletions returns how many deleted directories still take space.
func (m *maintenance) pendingDeletions() (n int) {
	m.pending.Range(func(path, _ any) bool {
		if _, err := os.Lstat(path.(string)); errors.Is(err, os.ErrNotExist) {
			m.pending.Delete(path)
		} else {
			n++
		}
		return true
	})
	return n
}

func (m *maintenance) done(name string) { m.active.Delete(name) }

// deleted remembers that there may be qgroups to remove.
func (m *maintenance) deleted() { m.reap.Store(true) }
