package storage

import (
	"sync"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// TenantLimits bound what a tenant may have. 0 is no limit.
type TenantLimits struct {
	Volumes   int
	SizeBytes int64 // of all its volumes together
}

// TenantStats are what a tenant has, as its limits count it.
type TenantStats struct {
	Limits    TenantLimits
	Volumes   int
	SizeBytes int64
}

// countedSize is what a volume counts in its tenant's total.
func (v *Volume) countedSize() int64 { return max(v.SizeBytes, v.QuotaBytes) }

// admission keeps a tenant within its limits where several volumes are made or grown at the
// same time. What is admitted counts from then on: as pending at first, and as a volume once it
// is kept.
type admission struct {
	mu      sync.Mutex
	pending map[string]admitted // by the name of the volume, of which one change is under way
}

type admitted struct {
	volumes int
	bytes   int64
}

// admit lets a new volume in, or one that grows from old, and fails with NoSpace where that
// takes the tenant over a limit. A tenant that is over already, because the limit was lowered,
// keeps what it has and gets no more. The caller calls end when the change is over, after keep
// where it has succeeded.
func (t *Tenant) admit(old, v Volume) (end func(), err error) {
	more := admitted{bytes: v.countedSize() - old.countedSize()}
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
	// Written so that sizes from requests cannot overflow.
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

// keep makes an admitted volume one of the tenant's.
func (t *Tenant) keep(v Volume) {
	t.admission.mu.Lock()
	defer t.admission.mu.Unlock()
	t.volumes.put(v)
	delete(t.admission.pending, v.Name)
}

// stats are the tenant's with what is being made.
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
