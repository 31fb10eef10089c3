package storage

import (
	"context"
	"fmt"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
)

// reconcileLimits sets limits that differ from the intended ones, for example after a power cut
// between a clone and the commit of its limit. If sizes are not enforced and the filesystem still
// has quotas, it removes the limits of an earlier start.
func (s *Store) reconcileLimits() error {
	limits, err := s.pool.Limits()
	if limits == nil {
		return err
	}
	off := s.pool.Quota() == QuotaOff
	for _, t := range s.tenants {
		for _, v := range t.volumes.all() {
			want := v.QuotaBytes
			if off {
				want = 0
			}
			if v.Quarantine == "" && s.reconcileLimit(v.Path, v.ID, want, limits) != nil {
				s.reloads.mark(t.volumeLock(v.Name)) // one volume must not keep others from being served
			}
		}
		if off {
			s.liftSnapshotLimits(t, limits)
		}
	}
	return nil
}

// liftSnapshotLimits removes limits of snapshots, because the kernel copies them to clones.
func (s *Store) liftSnapshotLimits(t *Tenant, limits map[uint64]int64) {
	for _, snapshot := range t.snapshots.all() {
		if snapshot.Quarantine == "" && s.reconcileLimit(snapshot.Path, snapshot.ID, 0, limits) != nil {
			s.reloads.mark(t.snapshotLock(snapshot.Name))
		}
	}
}

func (s *Store) reconcileLimit(path string, id uint64, want int64, limits map[uint64]int64) error {
	have := limits[id]
	if have == want {
		return nil
	}
	detail := fmt.Sprintf("the limit is %s, intended is %s", limitText(have), limitText(want))
	return s.repair(Finding{Kind: ondisk.WrongLimit, Path: path, Detail: detail}, func() error { return s.pool.SetLimit(id, want) })
}

func limitText(bytes int64) string {
	if bytes == 0 {
		return "none"
	}
	return fmt.Sprintf("%d bytes", bytes)
}

// removeQgroups removes the qgroups of destroyed subvolumes. Kernels before about 6.10 leave them
// behind. In simple mode all kernels leave a qgroup while a clone uses its data. The agent tries
// those again later.
func (s *Store) removeQgroups(ctx context.Context) error {
	stale, err := s.staleQgroups(ctx)
	if err != nil {
		return err
	}
	for _, id := range stale {
		f := Finding{Kind: ondisk.StaleQgroup, Path: s.pool.Path(), Detail: fmt.Sprintf("qgroup 0/%d", id)}
		if err := s.repair(f, func() error { return s.pool.RemoveQgroup(id) }); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) staleQgroups(ctx context.Context) ([]uint64, error) {
	if s.inspection != nil {
		return s.inspection.stale, nil
	}
	return s.pool.RemovableQgroups(ctx)
}
