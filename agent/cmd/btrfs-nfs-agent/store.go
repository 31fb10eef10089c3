package main

import (
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/api"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/metrics"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// observedStore is the store with conditions from outside of it.
type observedStore struct {
	*storage.Store
	tokens *api.Tokens
	grace  *graceExporter
}

// Conditions may be read by any client. The log has the details about the file.
func (s observedStore) Conditions() []storage.Condition {
	conditions := s.Store.Conditions()
	if s.tokens.Problem() != nil {
		conditions = append(conditions, storage.Condition{
			Reason: agentapi.ReasonTokensOutdated, Message: "AGENT_TENANTS_FILE cannot be read, and its earlier tokens stay valid: see the agent's log",
		})
	}
	if s.grace.graceMissed() {
		conditions = append(conditions, storage.Condition{
			Reason: agentapi.ReasonGraceMissed, Message: "the NFS server's grace period ended before volumes were exported: clients that had locks have lost them",
		})
	}
	return conditions
}

// apiStore and metricsStore adapt the store to the interfaces of those packages, because each of
// them declares a type Tenant.
type apiStore struct{ observedStore }

func (s apiStore) Tenant(name string) (api.Tenant, error) {
	tenant, err := s.Store.Tenant(name)
	if agentapi.CodeOf(err) == agentapi.NotFound {
		return nil, agentapi.Errorf(agentapi.Unavailable, "tenant %q is new in AGENT_TENANTS_FILE: restart the agent to serve it", name)
	}
	if err != nil {
		return nil, err
	}
	return tenant, nil
}

type metricsStore struct{ observedStore }

func (s metricsStore) Tenants() []metrics.Tenant {
	tenants := s.Store.Tenants()
	out := make([]metrics.Tenant, len(tenants))
	for i := range tenants {
		out[i] = tenants[i]
	}
	return out
}
