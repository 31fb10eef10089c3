package storage

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// recover loads the state on disk. It finishes or undoes what a crash interrupted, as package
// ondisk decides.
func (s *Store) recover(ctx context.Context) error {
	begin := time.Now()
	names, err := s.tenantNames()
	if err != nil {
		return err
	}
	if err := s.pool.WithIndex(func() {
		for _, name := range names {
			s.loadTenant(name)
		}
	}); err != nil {
		return err
	}
	if err := s.reconcileLimits(); err != nil {
		return err
	}
	if err := s.removeQgroups(ctx); err != nil {
		s.log.Warn("stale qgroups are left", "error", err)
	}
	if !s.inspection.readOnly() {
		if err := s.pool.Commit(ctx); err != nil {
			return err
		}
	}
	volumes, snapshots := 0, 0
	for _, t := range s.tenants {
		volumes += t.volumes.totals().items
		snapshots += t.snapshots.totals().items
	}
	s.log.Info("loaded the pool", "path", s.pool.Path(), "tenants", len(s.tenants), "volumes", volumes, "snapshots", snapshots,
		"quarantined", s.quarantined(), "quota", s.pool.Quota(), "took", time.Since(begin).Round(time.Millisecond))
	return nil
}

// tenantNames returns the configured tenants and those on disk.
func (s *Store) tenantNames() ([]string, error) {
	names := slices.Clone(s.config.Tenants)
	for _, name := range names {
		if err := id.ValidateName(name); err != nil {
			return nil, fmt.Errorf("tenant %q %w", name, err)
		}
	}
	unknown, err := s.pool.Tenants(names)
	for _, name := range unknown {
		s.log.Info("found a tenant on disk that is not configured: keeping its exports, not serving its API", "tenant", name)
	}
	return append(names, unknown...), err
}

// loadTenant loads one tenant. If that fails, the others are served, the exports of the tenant do
// not change, and maintenance tries again.
func (s *Store) loadTenant(name string) {
	t := &Tenant{store: s, name: name, volumes: newVolumes(), snapshots: newSnapshots()}
	var err error
	t.volumeDir, t.snapshotDir, err = s.pool.OpenTenant(name)
	if t.volumeDir == nil && err == nil {
		return // an inspection does not create a missing tenant
	}
	if err == nil {
		err = t.load()
	}
	if err == nil {
		t.takeOverSquash()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, before := s.broken[name]
	if err == nil {
		delete(s.broken, name)
		s.tenants[name] = t
		return
	}
	s.broken[name] = err
	s.reloads.forgetTenant(name)
	if !before {
		s.report(Finding{Kind: ondisk.Quarantined, Path: s.pool.Path() + "/" + name, Detail: "the tenant cannot be loaded: " + err.Error()})
	}
	t.close()
}

// retryTenants loads the tenants that could not be loaded.
func (s *Store) retryTenants() {
	for _, name := range s.brokenTenants() {
		s.loadTenant(name)
		if t := s.tenantOnDisk(name); t != nil {
			s.log.Info("loaded a tenant", "tenant", name, "volumes", t.volumes.totals().items, "snapshots", t.snapshots.totals().items)
			s.maintenance.drifted.Store(true)
		}
	}
}

func (s *Store) brokenTenants() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Sorted(maps.Keys(s.broken))
}

func (t *Tenant) load() error {
	if err := t.volumeDir.Load(t.loadVolume); err != nil {
		return err
	}
	return t.snapshotDir.Load(t.loadSnapshot) // nil in an inspection of a tenant without snapshots
}
