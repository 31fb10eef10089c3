package storage

import (
	"context"
)

// Usage reads what the kernel counts for subvolumes: see pool.Pool.Usage.
func (t *Tenant) Usage(_ context.Context, ids ...uint64) (map[uint64]Usage, error) {
	usage, err := t.store.pool.Usage(ids...)
	return usage, classify(err)
}

// Report reads one volume's quota, and its usage as of the last commit. It makes no commit: those
// who ask often would make all others on the pool wait.
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

// Stats reads the pool's numbers.
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
