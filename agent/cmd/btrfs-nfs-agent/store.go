package main

import (
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/api"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/metrics"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
)

// apiStore and metricsStore show the store as those packages declare it: their interfaces speak of a Tenant of their own.
type apiStore struct{ *storage.Store }

func (s apiStore) Tenant(name string) (api.Tenant, error) {
	tenant, err := s.Store.Tenant(name)
	if err != nil {
		return nil, err
	}
	return tenant, nil
}

type metricsStore struct{ *storage.Store }

func (s metricsStore) Tenants() []metrics.Tenant {
	tenants := s.Store.Tenants()
	out := make([]metrics.Tenant, len(tenants))
	for i := range tenants {
		out[i] = tenants[i]
	}
	return out
}
