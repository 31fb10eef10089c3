package storage

import (
	"context"
	"sync/atomic"
	"time"
)

// maintenanceInterval is how often maintenance runs. Its checks take microseconds.
const maintenanceInterval = time.Minute

// maintenance is the background work of the store. It handles drifted exports, inconsistent quotas,
// leftovers that could not be removed at once, and qgroups of deleted subvolumes.
type maintenance struct {
	failed   atomic.Bool // a change or removal failed since the last run: there may be leftovers
	reap     atomic.Bool // subvolumes were deleted since the last run
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
	if m.failed.Swap(false) || s.pool.PendingDeletions() > 0 {
		for _, t := range s.Tenants() {
			t.volumeDir.RemoveLeftovers()
			t.snapshotDir.RemoveLeftovers()
		}
	}
	if s.pool.QgroupsDue(m.reap.Swap(false)) {
		if err := s.removeQgroups(ctx); err != nil {
			m.reap.Store(true)
			s.log.Warn("stale qgroups are left", "error", err)
		}
	}
}
