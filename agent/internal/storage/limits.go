package storage

import (
	"sync"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// TenantLimits limit what a tenant may have. 0 means no limit.
type TenantLimits struct {
	Volumes   int
	SizeBytes int64 // sum over all volumes
}

// TenantStats holds the counts of a tenant that its limits apply to.
type TenantStats struct {
	Limits    TenantLimits
	Volumes   int
	SizeBytes int64
}

// countedSize is what a volume adds to the total of its tenant.
func countedSize(v *Volume) int64 { return max(v.SizeBytes, v.QuotaBytes) }

// admission enforces the limits of a tenant for concurrent creations and expansions. An admitted
// change counts at once, first as pending, and as a volume after keep.
type admission struct {
	mu      sync.Mutex
	pending map[string]admitted // by volume name; a volume has one change at a time
}

type admitted struct {
	volumes int
	bytes   int64
}

// admit admits a new volume, or one that grows from old. It fails with NoSpace if the tenant would
// exceed a limit. A tenant that exceeds a lowered limit keeps its volumes and gets no more. The
// caller calls end when the change is over, and keep before that if it succeeded.
func (t *Tenant) admit(old, v Volume) (end func(), err error) {
	more := admitted{bytes: countedSize(&v) - countedSize(&old)}
	if old.Name == "" {
		more.volumes = 1
	}
	if more.bytes <= 0 && more.volumes == 0 {
		return func() {}, nil
	}
	a := &t.admission
	a.mu.Lock()
	defer a.mu.Unlock()
	have := t.admittedStats()
	limits := have.Limits
	if volumes := have.Volumes + more.volumes; limits.Volumes > 0 && more.volumes > 0 && volumes > limits.Volumes {
		return nil, agentapi.Errorf(agentapi.NoSpace, "tenant %q must have at most %d volumes (AGENT_TENANT_LIMITS), got %d with %q",
			t.name, limits.Volumes, volumes, v.Name)
	}
	// This order of operations prevents an overflow by sizes from requests.
	if limits.SizeBytes > 0 && more.bytes > limits.SizeBytes-have.SizeBytes {
		return nil, agentapi.Errorf(agentapi.NoSpace, "the sizes of all volumes of tenant %q must be at most %d bytes together (AGENT_TENANT_LIMITS), "+
			"got %d bytes and %d more for %q", t.name, limits.SizeBytes, have.SizeBytes, more.bytes, v.Name)
	}
	if a.pending == nil {
		a.pending = map[string]admitted{}
	}
	a.pending[v.Name] = more
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.pending, v.Name)
	}, nil
}

// keep puts an admitted volume into the catalogue.
func (t *Tenant) keep(v Volume) {
	t.admission.mu.Lock()
	defer t.admission.mu.Unlock()
	t.volumes.put(v)
	delete(t.admission.pending, v.Name)
}

// stats returns the counts of the tenant, including pending volumes.
func (t *Tenant) stats() TenantStats {
	t.admission.mu.Lock()
	defer t.admission.mu.Unlock()
	return t.admittedStats()
}

func (t *Tenant) admittedStats() TenantStats {
	have := t.volumes.totals()
	out := TenantStats{Limits: t.store.config.Limits[t.name], Volumes: have.items, SizeBytes: have.size}
	for _, p := range t.admission.pending {
		out.Volumes += p.volumes
		out.SizeBytes += p.bytes
	}
	return out
}
