package pool

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
)

// Quota is how the agent enforces sizes: docs/architecture.md, "Quotas".
type Quota string

// Modes of AGENT_QUOTA_MODE.
const (
	QuotaAuto   Quota = "auto"   // the mode of the filesystem; full if it has none
	QuotaFull   Quota = "full"   // limits what a volume references
	QuotaSimple Quota = "simple" // limits the data that a volume itself wrote; kernel 6.7
	QuotaOff    Quota = "off"    // sizes are not enforced, and the agent removes limits that it has set
)

// Quota returns the mode that SetUpQuota chose. It is never QuotaAuto.
func (p *Pool) Quota() Quota { return p.quota }

// SetUpQuota sets up quotas in the configured mode. It never disables or converts quotas that an
// administrator enabled. A mode other than the configured one is an error.
func (p *Pool) SetUpQuota() error {
	status, err := p.fs.Quota()
	if err != nil {
		return fmt.Errorf("reading the quota state: %w", err)
	}
	mode, want := btrfs.QuotaMode(p.config.Quota), p.config.Quota
	switch want {
	case QuotaOff:
		p.quota = QuotaOff
		return nil
	case QuotaAuto:
		mode = btrfs.QuotaFull
		if status.Enabled {
			mode = status.Mode
		}
	case QuotaFull, QuotaSimple:
	default:
		return fmt.Errorf("quota mode %q is not one of auto, full, simple, off", want)
	}
	if status.Enabled && status.Mode != mode {
		return fmt.Errorf("AGENT_QUOTA_MODE is %s, but the filesystem has %s quotas: use auto, or turn them off with \"btrfs quota disable\"", want, status.Mode)
	}
	if err := p.fs.EnableQuota(mode); err != nil {
		return fmt.Errorf("turning %s quotas on: %w", mode, err)
	}
	p.quota = Quota(mode)
	return keepConsistent(p.fs, mode)
}

// InspectQuota adopts the mode of the filesystem, and changes nothing. It reports whether quotas
// are off although the configuration asks for them, and whether they are inconsistent.
func (p *Pool) InspectQuota() (off, inconsistent bool, err error) {
	p.quota = QuotaOff
	if p.config.Quota == QuotaOff {
		return false, false, nil
	}
	status, err := p.fs.Quota()
	if err != nil {
		return false, false, fmt.Errorf("reading the quota state: %w", err)
	}
	if status.Enabled {
		p.quota = Quota(status.Mode)
	}
	return !status.Enabled, status.Inconsistent, nil
}

// Rescan counts everything again and returns when that has ended.
func (p *Pool) Rescan(ctx context.Context) error {
	if err := p.fs.StartRescan(); err != nil {
		return err
	}
	return p.fs.WaitRescan(ctx)
}

// WaitRescan returns when no rescan is running.
func (p *Pool) WaitRescan(ctx context.Context) error { return p.fs.WaitRescan(ctx) }

// KeepConsistent starts a rescan if quotas are inconsistent, because limits are not enforced then.
func (p *Pool) KeepConsistent() {
	if p.quota != QuotaFull {
		return
	}
	status, err := p.fs.Quota()
	if err != nil || !status.Enabled || !status.Inconsistent || status.Rescanning {
		return
	}
	p.log.Warn("quotas are inconsistent and limits not enforced: rescanning")
	if err := p.fs.StartRescan(); err != nil {
		p.log.Error("the rescan cannot be started", "error", err)
	}
}

// keepConsistent makes the kernel also count the drop of large deleted subvolumes. By default the
// kernel marks the quotas inconsistent instead, and limits are not enforced until a rescan (sysfs
// qgroups/drop_subtree_threshold, kernel 6.2).
func keepConsistent(fs *btrfs.FS, mode btrfs.QuotaMode) error {
	if mode != btrfs.QuotaFull {
		return nil
	}
	if err := fs.SetDropThreshold(btrfs.MaxTreeLevel); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// SetLimit sets the limit of a subvolume. 0 means no limit. If quotas are off, any limit means no
// limit.
func (p *Pool) SetLimit(id uint64, bytes int64) error {
	if err := p.Step("limit", fmt.Sprint(id)); err != nil {
		return err
	}
	if p.quota == QuotaOff {
		bytes = 0
	}
	err := p.fs.SetLimit(id, uint64(bytes))
	if p.quota == QuotaOff && errors.Is(err, btrfs.ErrQuotaDisabled) {
		return nil // quotas are disabled, so there is no limit to remove
	}
	return err
}

// HasLimit reports whether a subvolume has this limit already. A read takes microseconds. Setting a
// limit changes the quota tree.
func (p *Pool) HasLimit(id uint64, bytes int64) bool {
	if p.quota == QuotaOff {
		bytes = 0
	}
	group, err := p.fs.Qgroup(id)
	return err == nil && int64(group.MaxReferenced) == bytes
}

// Limits returns the limits of all subvolumes, by ID. It returns nil without an error if quotas are
// disabled and the configuration wants them off.
func (p *Pool) Limits() (map[uint64]int64, error) {
	groups, err := p.fs.Qgroups()
	if p.quota == QuotaOff && errors.Is(err, btrfs.ErrQuotaDisabled) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading quotas: %w", err)
	}
	out := make(map[uint64]int64, len(groups))
	for id, group := range groups {
		out[id] = int64(group.MaxReferenced)
	}
	return out, nil
}
