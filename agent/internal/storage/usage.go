package storage

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
)

// wholeScan is from how many subvolumes on one walk over the quota tree is cheaper than a search for each.
const wholeScan = 256

// Usage reads what the kernel counts for subvolumes, by their IDs. One that is not counted is missing from the answer.
// Counts are those of the filesystem's last commit, at most 30 seconds old.
func (t *Tenant) Usage(_ context.Context, ids ...uint64) (map[uint64]Usage, error) {
	return t.store.usage(ids...)
}

func (s *Store) usage(ids ...uint64) (map[uint64]Usage, error) {
	out := make(map[uint64]Usage, len(ids))
	if s.quota == btrfs.QuotaOff {
		return out, nil
	}
	if len(ids) >= wholeScan {
		wanted := make(map[uint64]bool, len(ids))
		for _, id := range ids {
			wanted[id] = true
		}
		err := s.pool.fs.EachQgroupCounts(func(group btrfs.Qgroup) {
			if wanted[group.ID] {
				out[group.ID] = usageOf(group)
			}
		})
		if err != nil && !errors.Is(err, btrfs.ErrQuotaDisabled) {
			return nil, classify(err)
		}
		return out, nil
	}
	for _, id := range ids {
		group, err := s.pool.fs.QgroupCounts(id)
		if errors.Is(err, btrfs.ErrNoQgroup) || errors.Is(err, btrfs.ErrQuotaDisabled) {
			continue
		}
		if err != nil {
			return nil, classify(err)
		}
		out[id] = usageOf(group)
	}
	return out, nil
}

func usageOf(g btrfs.Qgroup) Usage {
	return Usage{UsedBytes: int64(g.Referenced), ExclusiveBytes: int64(g.Exclusive)}
}

// Report reads one volume's quota, and its usage as of now: if the last commit is older than a second it makes one first,
// since the kernel counts at commits.
func (t *Tenant) Report(ctx context.Context, volume string) (Report, error) {
	v, err := t.GetVolume(ctx, volume)
	if err != nil {
		return Report{}, err
	}
	used, counted, err := t.store.usedNow(ctx, v.ID)
	if err != nil {
		return Report{}, err
	}
	report := Report{Conditions: t.store.look(ctx).Of(v, used)}
	if counted {
		report.QuotaBytes, report.UsedBytes = v.QuotaBytes, used.UsedBytes
	}
	return report, nil
}

// usedNow reads the usage of one subvolume as of now. counted is false where quotas are off, or do not count it.
func (s *Store) usedNow(ctx context.Context, id uint64) (used Usage, counted bool, err error) {
	if s.quota == btrfs.QuotaOff {
		return Usage{}, false, nil
	}
	if err := s.upkeep.freshen(ctx, s); err != nil {
		s.log.Warn("usage is as of the last commit: a new one failed", "error", err)
	}
	usage, err := s.usage(id)
	used, counted = usage[id]
	return used, counted, err
}

// freshness commits at most once in a second for those who want current counts, so that no tenant can slow the others by
// asking.
type freshness struct {
	mu   sync.Mutex
	last time.Time
}

const freshFor = time.Second

func (f *freshness) freshen(ctx context.Context, s *Store) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.last) < freshFor {
		return nil
	}
	f.last = time.Now()
	return s.pool.fs.Commit(ctx)
}

// Stats reads the pool's numbers.
func (s *Store) Stats(context.Context) (Stats, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(s.pool.base.Fd()), &st); err != nil {
		return Stats{}, classify(fmt.Errorf("statfs: %w", err))
	}
	space, err := s.pool.fs.Space()
	if err != nil {
		return Stats{}, classify(err)
	}
	devices, err := s.pool.fs.Devices()
	if err != nil {
		return Stats{}, classify(err)
	}
	block := st.Bsize
	return Stats{
		StatfsTotal: int64(st.Blocks) * block,
		StatfsUsed:  int64(st.Blocks-st.Bfree) * block,
		StatfsFree:  int64(st.Bavail) * block,
		Space:       space, Devices: devices,
	}, nil
}
