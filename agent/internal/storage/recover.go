package storage

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/beneath"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/inspect"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// loaders is how many directories a start reads concurrently.
const loaders = 8

// recover loads the state on disk. It finishes or undoes what a crash interrupted, as package
// inspect decides.
func (s *Store) recover(ctx context.Context) error {
	begin := time.Now()
	names, err := s.tenantNames()
	if err != nil {
		return err
	}
	if s.index, err = s.pool.IndexData(ondisk.DataDir); err != nil {
		return err
	}
	defer func() { s.index = nil }()
	for _, name := range names {
		s.loadTenant(name)
	}
	if err := s.reconcileLimits(); err != nil {
		return err
	}
	if err := s.removeQgroups(ctx); err != nil {
		s.log.Warn("stale qgroups are left", "error", err)
	}
	if !s.inspection.readOnly() {
		if err := s.disk.Commit(ctx); err != nil {
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
	entries, err := ondisk.ReadDir(s.pool.Base())
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if slices.Contains(names, entry) || id.ValidateName(entry) != nil || !s.wasTenant(entry) {
			continue
		}
		s.log.Info("found a tenant on disk that is not configured: keeping its exports, not serving its API", "tenant", entry)
		names = append(names, entry)
	}
	return names, nil
}

// wasTenant reports whether a directory contains a volume or a snapshot of the agent. The directory
// of snapshots alone proves little, because other programs use that name too.
func (s *Store) wasTenant(name string) bool {
	t := &Tenant{store: s, name: name}
	var err error
	if t.dir, err = s.disk.Open(name); err != nil {
		return false
	}
	defer t.dir.Close()
	if t.snapsDir, err = beneath.OpenDir(t.dir, ondisk.SnapshotsDir); err != nil {
		return false
	}
	defer t.snapsDir.Close()
	return t.hasMetadata(t.dir) || t.hasMetadata(t.snapsDir)
}

// hasMetadata reports whether a subdirectory has readable metadata.
func (t *Tenant) hasMetadata(parent *os.File) bool {
	names, err := ondisk.ReadDir(parent)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(names, func(name string) bool {
		return id.ValidateName(name) == nil && t.inspect(parent, name).metadata.Name == name
	})
}

// loadTenant loads one tenant. If that fails, the others are served, the exports of the tenant do
// not change, and maintenance tries again.
func (s *Store) loadTenant(name string) {
	t, err := s.openTenant(name)
	if err == nil && t != nil { // an inspection does not create a missing tenant
		err = t.load()
	}
	if err == nil && t != nil {
		t.takeOverSquash()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, before := s.broken[name]
	if err == nil {
		delete(s.broken, name)
		if t != nil {
			s.tenants[name] = t
		}
		return
	}
	s.broken[name] = err
	s.reloads.forgetTenant(name)
	if !before {
		s.report(Finding{Kind: Quarantined, Path: s.pool.Path() + "/" + name, Detail: "the tenant cannot be loaded: " + err.Error()})
	}
	if t != nil {
		t.close()
	}
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
	if err := t.loadAll(t.dir, func(name string) {
		if name != ondisk.SnapshotsDir {
			t.loadVolume(name)
		}
	}); err != nil {
		return err
	}
	if t.snapsDir == nil { // an inspection of a tenant without snapshots
		return nil
	}
	return t.loadAll(t.snapsDir, t.loadSnapshot)
}

// loadAll removes the leftovers in a directory and calls load for the other names.
func (t *Tenant) loadAll(parent *os.File, load func(name string)) error {
	names, err := ondisk.ReadDir(parent)
	if err != nil {
		return err
	}
	var work errgroup.Group
	work.SetLimit(loaders)
	for _, name := range names {
		work.Go(func() error {
			switch inspect.PlaceOf(name, id.ValidateName) {
			case inspect.Staging, inspect.Trash:
				t.removeTemporary(parent, name)
			default:
				load(name)
			}
			return nil
		})
	}
	return work.Wait()
}
