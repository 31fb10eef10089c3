package storage

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
)

// wholeScan is from how many subvolumes on one walk over the quota tree is cheaper than a search for each.
const wholeScan = 256

// Usage reads what the kernel counts for subvolumes, by their IDs. One that is not counted is
// missing from the answer. Counts are those of the filesystem's last commit. The kernel commits
// every 30 seconds where something was written, unless the mount option commit= says otherwise,
// and each change by the agent commits too.
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

// Report reads one volume's quota, and its usage as of the last commit. It makes no commit: those
// who ask often would make all others on the pool wait.
func (t *Tenant) Report(ctx context.Context, volume string) (Report, error) {
	v, err := t.GetVolume(ctx, volume)
	if err != nil {
		return Report{}, err
	}
	used, counted, err := t.store.usageOne(v.ID)
	if err != nil {
		return Report{}, err
	}
	report := Report{Conditions: t.store.readHealth(ctx).Of(v, used)}
	if counted {
		report.QuotaBytes, report.UsedBytes = v.QuotaBytes, used.UsedBytes
	}
	return report, nil
}

// usageOne reads the usage of one subvolume. counted is false where quotas are off, or do not
// count it.
func (s *Store) usageOne(id uint64) (used Usage, counted bool, err error) {
	usage, err := s.usage(id)
	used, counted = usage[id]
	return used, counted, err
}

// usageNow writes out all that clients have written, which a commit does not, and commits before it
// reads. It is for changes that depend on the exact number, which are rare, and not for readers.
func (s *Store) usageNow(id uint64) (Usage, error) {
	if s.quota == btrfs.QuotaOff {
		return Usage{}, nil
	}
	if err := s.disk.sync(); err != nil {
		return Usage{}, err
	}
	used, _, err := s.usageOne(id)
	return used, err
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
	tenants := map[string]TenantStats{}
	for _, t := range s.Tenants() {
		tenants[t.name] = t.stats()
	}
	block := st.Bsize
	return Stats{
		StatfsTotal: int64(st.Blocks) * block,
		StatfsUsed:  int64(st.Blocks-st.Bfree) * block,
		StatfsFree:  int64(st.Bavail) * block,
		Space:       space, Devices: devices, Tenants: tenants,
	}, nil
}
