package storage

import (
	"context"
)

// Usage reads the kernel's counts of subvolumes: see pool.Pool.Usage.
func (t *Tenant) Usage(_ context.Context, ids ...uint64) (map[uint64]Usage, error) {
	usage, err := t.store.pool.Usage(ids...)
	return usage, classify(err)
}

// Report reads the quota of one volume, and its usage as of the last commit. It does not commit,
// because frequent requests would then delay all other users of the pool.
func (t *Tenant) Report(ctx context.Context, volume string) (Report, error) {
	v, err := t.GetVolume(ctx, volume)
	if err != nil {
		return Report{}, err
	}
	used, counted, err := t.store.pool.UsageOne(v.ID)
	if err != nil {
		return Report{}, classify(err)
	}
	report := Report{Conditions: t.store.readHealth(ctx).Of(v, used)}
	if counted {
		report.QuotaBytes, report.UsedBytes = v.QuotaBytes, used.UsedBytes
	}
	return report, nil
}

// Stats reads the numbers of the pool.
func (s *Store) Stats(context.Context) (Stats, error) {
	stats, err := s.pool.Stats()
	if err != nil {
		return Stats{}, classify(err)
	}
	tenants := map[string]TenantStats{}
	for _, t := range s.Tenants() {
		tenants[t.name] = t.stats()
	}
	return Stats{Stats: stats, Tenants: tenants}, nil
}
