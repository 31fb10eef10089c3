package pool

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
)

// wholeScan is the number of subvolumes from which on one walk over the quota tree is cheaper than
// a search for each.
const wholeScan = 256

// Usage holds the kernel's counts of one subvolume. The counts change when the filesystem commits.
type Usage struct {
	UsedBytes      int64 // referenced data; 0 if quotas are off
	ExclusiveBytes int64 // what a deletion would free
}

// Usage reads the kernel's counts of subvolumes, by ID. The result omits subvolumes without counts.
// The counts are those of the last commit of the filesystem. The kernel commits every 30 seconds if
// there are changes, unless the mount option commit= sets another interval. Each change by the
// agent also commits.
func (p *Pool) Usage(ids ...uint64) (map[uint64]Usage, error) {
	out := make(map[uint64]Usage, len(ids))
	if p.quota == QuotaOff {
		return out, nil
	}
	if len(ids) >= wholeScan {
		wanted := make(map[uint64]bool, len(ids))
		for _, id := range ids {
			wanted[id] = true
		}
		err := p.fs.EachQgroupCounts(func(group btrfs.Qgroup) {
			if wanted[group.ID] {
				out[group.ID] = usageOf(group)
			}
		})
		if err != nil && !errors.Is(err, btrfs.ErrQuotaDisabled) {
			return nil, err
		}
		return out, nil
	}
	for _, id := range ids {
		group, err := p.fs.QgroupCounts(id)
		if errors.Is(err, btrfs.ErrNoQgroup) || errors.Is(err, btrfs.ErrQuotaDisabled) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out[id] = usageOf(group)
	}
	return out, nil
}

func usageOf(g btrfs.Qgroup) Usage {
	return Usage{UsedBytes: int64(g.Referenced), ExclusiveBytes: int64(g.Exclusive)}
}

// UsageOne reads the usage of one subvolume. counted is false if quotas are off or have no counts
// for it.
func (p *Pool) UsageOne(id uint64) (used Usage, counted bool, err error) {
	usage, err := p.Usage(id)
	used, counted = usage[id]
	return used, counted, err
}

// UsageNow writes out all data of clients, which a commit does not, and commits before it reads. It
// is for rare changes that depend on the exact number, not for status requests.
func (p *Pool) UsageNow(id uint64) (Usage, error) {
	if p.quota == QuotaOff {
		return Usage{}, nil
	}
	if err := p.Sync(); err != nil {
		return Usage{}, err
	}
	used, _, err := p.UsageOne(id)
	return used, err
}

// SharedBytes returns how much of the data of a subvolume other subvolumes share, after a commit.
// Only full quotas count it.
func (p *Pool) SharedBytes(ctx context.Context, id uint64) (int64, error) {
	if err := p.Commit(ctx); err != nil {
		return 0, err
	}
	group, err := p.fs.QgroupCounts(id)
	if errors.Is(err, btrfs.ErrNoQgroup) {
		return 0, nil
	}
	return int64(group.Referenced) - int64(group.Exclusive), err
}

// Stats holds the numbers of the filesystem.
type Stats struct {
	StatfsTotal, StatfsUsed, StatfsFree int64 // bytes, as df shows them
	Space                               btrfs.Space
	Devices                             []btrfs.Device
}

// Stats reads the numbers of the filesystem.
func (p *Pool) Stats() (Stats, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(p.base.Fd()), &st); err != nil {
		return Stats{}, fmt.Errorf("statfs: %w", err)
	}
	space, err := p.fs.Space()
	if err != nil {
		return Stats{}, err
	}
	devices, err := p.fs.Devices()
	if err != nil {
		return Stats{}, err
	}
	block := st.Bsize
	return Stats{
		StatfsTotal: int64(st.Blocks) * block,
		StatfsUsed:  int64(st.Blocks-st.Bfree) * block,
		StatfsFree:  int64(st.Bavail) * block,
		Space:       space, Devices: devices,
	}, nil
}
