package storage

import (
	"context"
	"path/filepath"
	"slices"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/pool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

const (
	// nearlyFull is the part of a size from which on it is worth a condition, in percent.
	nearlyFull = 95
	// fullWithin is how close to its limit a volume counts as full, in bytes. Writes fail with 16 KiB left, which btrfs keeps for
	// the metadata of deletes (measured, in both quota modes and whatever the limit).
	fullWithin = 128 << 10
)

// Health is what is wrong at one moment. It is read once for all the volumes of an answer.
type Health struct {
	pool    pool.Conditions // and so with every volume
	exports map[string]int  // of a volume's data path: how many clients are to be let in and are not

	subvolumes subvolumeState
}

// Of says what is wrong with a volume, its pool included.
func (h Health) Of(v Volume, used Usage) []Condition {
	out := slices.Clip(h.pool)
	if v.Quarantine != "" {
		out.Add(agentapi.ReasonQuarantined, "%s", v.Quarantine)
	}
	switch left := v.QuotaBytes - used.UsedBytes; {
	case v.QuotaBytes == 0:
	case v.OverLimit(used) > 0:
		out.Add(agentapi.ReasonVolumeOverLimit, "%d bytes are used, the limit is %d: writes fail until enough is deleted or the volume is grown",
			used.UsedBytes, v.QuotaBytes)
	case left < fullWithin:
		out.Add(agentapi.ReasonVolumeFull, "%d of %d bytes are used: writes fail until something is deleted or the volume grown", used.UsedBytes, v.QuotaBytes)
	case used.UsedBytes >= v.QuotaBytes/100*nearlyFull: // a quota times 100 may be too much for an int64
		out.Add(agentapi.ReasonVolumeNearlyFull, "%d of %d bytes are used", used.UsedBytes, v.QuotaBytes)
	}
	h.subvolumes.of(v, &out)
	if missing := h.exports[v.dataPath()]; missing > 0 {
		out.Add(agentapi.ReasonExportMissing, "the NFS server does not let in %d of the clients that the volume is exported to", missing)
	}
	return out
}

// OverLimit is how many bytes a volume has beyond its limit. btrfs reserves no space for a reflink,
// which a copy on the server is, and lets deletes at the limit write some metadata. Those few
// kilobytes do not count.
func (v Volume) OverLimit(used Usage) int64 {
	over := used.UsedBytes - v.QuotaBytes
	if v.QuotaBytes == 0 || over < fullWithin {
		return 0
	}
	return over
}

// poolHealthy tells whether only a volume of its own can be degraded.
func (h Health) poolHealthy() bool { return len(h.pool) == 0 }

// healthFor is how long a look at the pool counts.
const healthFor = time.Second

// Health looks at the pool and at the NFS server's exports, or returns what a look less than a second ago saw.
func (t *Tenant) Health(ctx context.Context) Health {
	return t.store.healthCache.health.get(healthFor, func() Health { return t.store.readHealth(ctx) })
}

// Conditions are what is wrong with the pool, its volumes and its exports now; none where all is well. They name no
// volume. Anyone may ask for them, as often as they like, so they cost the same however many volumes there are,
// and look at devices, space and quotas once a second at most.
func (s *Store) Conditions() []Condition {
	out := s.poolConditions(func() pool.Conditions {
		return s.healthCache.filesystem.get(healthFor, s.pool.FilesystemConditions)
	})
	if n := s.quarantined(); n > 0 {
		out.Add(agentapi.ReasonQuarantined, "%d volumes or snapshots are quarantined", n)
	}
	if n := len(s.brokenTenants()); n > 0 { // whose names no other tenant learns
		out.Add(agentapi.ReasonTenantUnavailable, "%d tenants cannot be loaded: see the agent's log", n)
	}
	if n := s.maintenance.pendingDeletions(); n > 0 {
		out.Add(agentapi.ReasonDeletionPending, "%d deleted volumes or snapshots still take space, because they are in use on the storage host, as by btrfs send: they are removed within a minute after that has ended", n)
	}
	if s.maintenance.exportError() != nil { // which may name volumes: it is in the log
		out.Add(agentapi.ReasonExportsDiffer, "the NFS server's exports cannot be brought in line: see the agent's log")
	}
	return out
}

// readHealth is Health as of now, but for the exports, which are looked at every exportsFor.
func (s *Store) readHealth(ctx context.Context) Health {
	conditions := s.poolConditions(s.pool.FilesystemConditions)
	exports := s.healthCache.exports.get(exportsFor, func() exportState { return s.readExports(ctx) })
	if exports.unknown {
		conditions.Add(agentapi.ReasonExportsUnknown, "the NFS server does not tell what it exports: see the agent's log")
	}
	subvolumes := s.healthCache.subvolumes.get(subvolumesFor, s.readSubvolumes)
	return Health{pool: conditions, exports: exports.missing, subvolumes: subvolumes}
}

// healthCache is what was read lately.
type healthCache struct {
	health  cached[Health]
	exports cached[exportState]
	roots   cached[int]

	subvolumes cached[subvolumeState]
	filesystem cached[pool.Conditions]
}

// poolConditions are what is wrong with the pool and so with every volume on it; filesystem are those of the filesystem.
func (s *Store) poolConditions(filesystem func() pool.Conditions) pool.Conditions {
	out, gone := s.pool.AccessConditions()
	if gone {
		return out
	}
	out = append(out, filesystem()...)
	s.exportRootCondition(&out)
	return out
}

func (s *Store) quarantined() int {
	n := 0
	for _, t := range s.Tenants() {
		n += t.volumes.totals().quarantined + t.snapshots.totals().quarantined
	}
	return n
}

// degraded selects the volumes that something is wrong with. It reads the usage of all of them at once.
func (t *Tenant) degraded(ctx context.Context) (func(*Volume) bool, error) {
	health := t.Health(ctx)
	if !health.poolHealthy() {
		return func(*Volume) bool { return true }, nil
	}
	var ids []uint64
	for _, v := range t.volumes.all() {
		ids = append(ids, v.ID)
	}
	usage, err := t.Usage(ctx, ids...)
	if err != nil {
		return nil, err
	}
	return func(v *Volume) bool { return len(health.Of(*v, usage[v.ID])) > 0 }, nil
}

// dataPath is what is exported.
func (v Volume) dataPath() string { return filepath.Join(v.Path, dataDir) }
