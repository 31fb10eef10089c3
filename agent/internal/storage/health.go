package storage

import (
	"context"
	"slices"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

const (
	// nearlyFull is the used part of a size, in percent, from which on a volume has a condition.
	nearlyFull = 95
	// fullWithin is how close to its limit a volume counts as full, in bytes. Writes fail with 16
	// KiB left, which btrfs reserves for the metadata of deletes (measured in both quota modes,
	// with different limits).
	fullWithin = 128 << 10
)

// Health holds the problems at one moment. A request reads it once for all volumes of its reply.
type Health struct {
	pool    Conditions     // these also apply to every volume
	exports map[string]int // by data path of a volume: number of clients without their export

	subvolumes subvolumeState
}

// Of returns the conditions of a volume, including those of its pool.
func (h Health) Of(v Volume, used Usage) []Condition {
	out := slices.Clip(h.pool)
	if v.Quarantine != "" {
		out.Add(agentapi.ReasonQuarantined, "%s", v.Quarantine)
	}
	switch left := v.QuotaBytes - used.UsedBytes; {
	case v.QuotaBytes == 0:
	case OverLimit(v, used) > 0:
		out.Add(agentapi.ReasonVolumeOverLimit, "%d bytes are used, the limit is %d: writes fail until enough is deleted or the volume is grown",
			used.UsedBytes, v.QuotaBytes)
	case left < fullWithin:
		out.Add(agentapi.ReasonVolumeFull, "%d of %d bytes are used: writes fail until something is deleted or the volume grown", used.UsedBytes, v.QuotaBytes)
	case used.UsedBytes >= v.QuotaBytes/100*nearlyFull: // a quota times 100 may overflow an int64
		out.Add(agentapi.ReasonVolumeNearlyFull, "%d of %d bytes are used", used.UsedBytes, v.QuotaBytes)
	}
	h.subvolumes.of(v, &out)
	if missing := h.exports[v.DataPath()]; missing > 0 {
		out.Add(agentapi.ReasonExportMissing, "the NFS server does not let in %d of the clients that the volume is exported to", missing)
	}
	return out
}

// OverLimit returns by how many bytes a volume exceeds its limit. btrfs reserves no space for a
// reflink, which a server-side copy uses, and lets deletes at the limit write some metadata. A few
// kilobytes do not count.
func OverLimit(v Volume, used Usage) int64 {
	over := used.UsedBytes - v.QuotaBytes
	if v.QuotaBytes == 0 || over < fullWithin {
		return 0
	}
	return over
}

// poolHealthy reports whether the pool has no conditions. Then only conditions of single volumes
// are possible.
func (h Health) poolHealthy() bool { return len(h.pool) == 0 }

// healthFor is how long a health check of the pool stays valid.
const healthFor = time.Second

// Health checks the pool and the exports of the NFS server. It returns the previous result if that
// is less than a second old.
func (t *Tenant) Health(ctx context.Context) Health {
	return t.store.healthCache.health.get(healthFor, func() Health { return t.store.readHealth(ctx) })
}

// Conditions returns the current problems of the pool, its volumes and its exports. They name no
// volume. Any client may request them at any rate without a token. So their cost does not depend on
// the number of volumes, and devices, space and quotas are read at most once a second.
func (s *Store) Conditions() []Condition {
	out := s.poolConditions(func() Conditions {
		return s.healthCache.filesystem.get(healthFor, s.pool.FilesystemConditions)
	})
	if n := s.quarantined(); n > 0 {
		out.Add(agentapi.ReasonQuarantined, "%d volumes or snapshots are quarantined", n)
	}
	if n := len(s.brokenTenants()); n > 0 { // other tenants must not learn their names
		out.Add(agentapi.ReasonTenantUnavailable, "%d tenants cannot be loaded: see the agent's log", n)
	}
	if n := s.pool.PendingDeletions(); n > 0 {
		out.Add(agentapi.ReasonDeletionPending, "%d deleted volumes or snapshots still take space, because they are in use on the storage host, as by btrfs send: they are removed within a minute after that has ended", n)
	}
	if s.maintenance.exportError() != nil { // the error may name volumes: the log has it
		out.Add(agentapi.ReasonExportsDiffer, "the NFS server's exports cannot be brought in line: see the agent's log")
	}
	return out
}

// readHealth reads the current health, and the exports at most every exportsFor.
func (s *Store) readHealth(ctx context.Context) Health {
	conditions := s.poolConditions(s.pool.FilesystemConditions)
	exports := s.healthCache.exports.get(exportsFor, func() exportState { return s.readExports(ctx) })
	if exports.unknown {
		conditions.Add(agentapi.ReasonExportsUnknown, "the NFS server does not tell what it exports: see the agent's log")
	}
	subvolumes := s.healthCache.subvolumes.get(subvolumesFor, s.readSubvolumes)
	return Health{pool: conditions, exports: exports.missing, subvolumes: subvolumes}
}

// healthCache holds recent results.
type healthCache struct {
	health  cached[Health]
	exports cached[exportState]
	roots   cached[int]

	subvolumes cached[subvolumeState]
	filesystem cached[Conditions]
}

// poolConditions returns the conditions of the pool, which apply to every volume on it. filesystem
// returns those of the filesystem.
func (s *Store) poolConditions(filesystem func() Conditions) Conditions {
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

// degraded selects the volumes with conditions. It reads the usage of all of them at once.
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
