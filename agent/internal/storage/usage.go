package storage

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
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
	if t.store.quota == btrfs.QuotaOff {
		return Report{Conditions: t.store.conditionsOf(v, Usage{})}, nil
	}
	if err := t.store.upkeep.freshen(ctx, t.store); err != nil {
		t.store.log.Warn("usage is as of the last commit: a new one failed", "error", err)
	}
	usage, err := t.store.usage(v.ID)
	if err != nil {
		return Report{}, err
	}
	used, counted := usage[v.ID]
	if !counted {
		return Report{Conditions: t.store.conditionsOf(v, used)}, nil
	}
	return Report{QuotaBytes: v.QuotaBytes, UsedBytes: used.UsedBytes, Conditions: t.store.conditionsOf(v, used)}, nil
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

// nearlyFull is the part of a size from which on it is worth a condition, in percent.
const nearlyFull = 95

// Conditions are what is wrong with the pool now; none where all is well.
func (s *Store) Conditions() []Condition {
	var out []Condition
	add := func(reason, format string, args ...any) {
		out = append(out, Condition{Reason: reason, Message: fmt.Sprintf(format, args...)})
	}
	if err := s.pool.check(); err != nil {
		add("PoolUnavailable", "%v", err)
		return out
	}
	s.deviceConditions(add)
	if space, err := s.pool.fs.Space(); err != nil {
		add("PoolUnavailable", "%v", err)
	} else if space.FreeBytes < keepFree || space.UsedBytes*100 >= space.TotalBytes*nearlyFull {
		add("PoolNearlyFull", "%d of %d bytes are free", space.FreeBytes, space.TotalBytes)
	}
	if status, err := s.pool.fs.Quota(); err == nil && s.quota != btrfs.QuotaOff {
		if !status.Enabled {
			add("QuotaDisabled", "somebody turned quotas off: no limit is enforced until the agent is restarted")
		} else if status.Inconsistent {
			add("QuotaInconsistent", "limits are not enforced until a rescan has finished; rescanning: %t", status.Rescanning)
		}
	}
	if n := s.quarantined(); n > 0 {
		add("Quarantined", "%d volumes or snapshots are quarantined", n)
	}
	if s.upkeep.exportError() != nil { // which may name volumes: it is in the log
		add("ExportsDiffer", "the NFS server's exports cannot be brought in line: see the agent's log")
	}
	return out
}

func (s *Store) deviceConditions(add func(reason, format string, args ...any)) {
	devices, err := s.pool.fs.Devices()
	if err != nil {
		add("PoolUnavailable", "%v", err)
		return
	}
	for _, d := range devices {
		if d.Missing {
			add("DeviceMissing", "device %d is missing", d.ID)
		}
		if e := d.Errors; e != (btrfs.DeviceErrors{}) {
			add("DeviceErrors", "device %d (%s) counts %d read, %d write, %d flush, %d corruption and %d generation errors; after the repair, \"btrfs device stats -z\" sets them back",
				d.ID, d.Path, e.Read, e.Write, e.Flush, e.Corruption, e.Generation)
		}
	}
}

func (s *Store) quarantined() int {
	n := 0
	for _, t := range s.Tenants() {
		t.volumes.mu.RLock()
		n += t.volumes.count(func(v *Volume) bool { return v.Quarantine != "" })
		t.volumes.mu.RUnlock()
		t.snapshots.mu.RLock()
		n += t.snapshots.count(func(s *Snapshot) bool { return s.Quarantine != "" })
		t.snapshots.mu.RUnlock()
	}
	return n
}

// conditionsOf are what is wrong with one volume, which includes what is wrong with its pool.
func (s *Store) conditionsOf(v Volume, used Usage) []Condition {
	out := s.Conditions()
	if v.Quarantine != "" {
		out = append(out, agentapi.Condition{Reason: "Quarantined", Message: v.Quarantine})
	}
	if v.QuotaBytes > 0 && used.UsedBytes >= v.QuotaBytes/100*nearlyFull { // a quota times 100 may be too much for an int64
		out = append(out, agentapi.Condition{Reason: "VolumeNearlyFull", Message: fmt.Sprintf("%d of %d bytes are used", used.UsedBytes, v.QuotaBytes)})
	}
	return out
}
