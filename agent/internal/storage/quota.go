package storage

import (
	"errors"
	"fmt"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
)

// Quota says how sizes are enforced: docs/architecture.md, "Quotas".
type Quota string

// Quota modes of AGENT_QUOTA_MODE.
const (
	QuotaAuto   Quota = "auto"   // whatever the filesystem has; full where it has none
	QuotaFull   Quota = "full"   // limits what a volume references
	QuotaSimple Quota = "simple" // limits what a volume writes anew; kernel 6.7
	QuotaOff    Quota = "off"    // sizes are not enforced, and limits that the agent has set are lifted
)

// setUpQuota brings the filesystem's quotas into the mode that is asked for. It never turns off or converts quotas that
// somebody else turned on: another mode than the one asked for is an error.
func setUpQuota(fs *btrfs.FS, want Quota) (btrfs.QuotaMode, error) {
	status, err := fs.Quota()
	if err != nil {
		return "", fmt.Errorf("reading the quota state: %w", err)
	}
	mode := btrfs.QuotaMode(want)
	switch want {
	case QuotaOff:
		return btrfs.QuotaOff, nil
	case QuotaAuto:
		mode = btrfs.QuotaFull
		if status.Enabled {
			mode = status.Mode
		}
	case QuotaFull, QuotaSimple:
	default:
		return "", fmt.Errorf("quota mode %q is not one of auto, full, simple, off", want)
	}
	if status.Enabled && status.Mode != mode {
		return "", fmt.Errorf("AGENT_QUOTA_MODE is %s, but the filesystem has %s quotas: use auto, or turn them off with \"btrfs quota disable\"", want, status.Mode)
	}
	if err := fs.EnableQuota(mode); err != nil {
		return "", fmt.Errorf("turning %s quotas on: %w", mode, err)
	}
	return mode, keepConsistent(fs, mode)
}

// keepConsistent makes the kernel count also when it drops large deleted subvolumes, where it would otherwise give up and
// stop enforcing limits until a rescan (sysfs qgroups/drop_subtree_threshold, kernel 6.2).
func keepConsistent(fs *btrfs.FS, mode btrfs.QuotaMode) error {
	if mode != btrfs.QuotaFull {
		return nil
	}
	if err := fs.SetDropThreshold(btrfs.MaxTreeLevel); !errors.Is(err, errNotExist) {
		return err
	}
	return nil
}

// reconcileLimits sets the limits that differ from the intended ones, as after a power cut
// between a clone and the commit of its limit. Where sizes are not enforced and the filesystem
// still has quotas, it takes away the limits that an earlier start has set.
func (s *Store) reconcileLimits() error {
	groups, err := s.pool.fs.Qgroups()
	if s.quota == btrfs.QuotaOff && errors.Is(err, btrfs.ErrQuotaDisabled) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading quotas: %w", err)
	}
	for _, t := range s.tenants {
		for _, v := range t.volumes.all() {
			if v.Quarantine != "" {
				continue
			}
			if s.reconcileLimit(v.Path, v.ID, s.intendedLimit(v), groups) != nil {
				s.reloads.mark(t.volumeLock(v.Name)) // one volume keeps no other from being served
			}
		}
		if s.quota == btrfs.QuotaOff {
			s.liftSnapshotLimits(t, groups)
		}
	}
	return nil
}

// liftSnapshotLimits is for clones: the kernel gives them the limits of their sources.
func (s *Store) liftSnapshotLimits(t *Tenant, groups map[uint64]btrfs.Qgroup) {
	for _, snapshot := range t.snapshots.all() {
		if snapshot.Quarantine == "" && s.reconcileLimit(snapshot.Path, snapshot.ID, 0, groups) != nil {
			s.reloads.mark(t.snapshotLock(snapshot.Name))
		}
	}
}

func (s *Store) reconcileLimit(path string, id uint64, want int64, groups map[uint64]btrfs.Qgroup) error {
	have := groups[id].MaxReferenced
	if int64(have) == want {
		return nil
	}
	detail := fmt.Sprintf("the limit is %s, intended is %s", limitText(have), limitText(uint64(want)))
	return s.repair(Finding{Kind: WrongLimit, Path: path, Detail: detail}, func() error { return s.disk.setLimit(id, want) })
}

// intendedLimit of a volume; 0 is none.
func (s *Store) intendedLimit(v Volume) int64 {
	if s.quota == btrfs.QuotaOff {
		return 0
	}
	return v.QuotaBytes
}

func limitText(bytes uint64) string {
	if bytes == 0 {
		return "none"
	}
	return fmt.Sprintf("%d bytes", bytes)
}

// isLimited says whether a volume has its limit already. To ask takes microseconds, to set it a change to the quota tree.
func (s *Store) isLimited(v Volume) bool {
	group, err := s.pool.fs.Qgroup(v.ID)
	return err == nil && int64(group.MaxReferenced) == s.intendedLimit(v)
}

// limit sets a volume's limit. Without quotas there is nothing to set.
func (s *Store) limit(v Volume) error {
	err := s.disk.setLimit(v.ID, s.intendedLimit(v))
	if s.quota == btrfs.QuotaOff && errors.Is(err, btrfs.ErrQuotaDisabled) {
		return nil
	}
	return err
}
