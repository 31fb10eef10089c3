package fakeagent

import (
	"maps"
	"net/http"
	"slices"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// export adds a reference. A reference with the same client and labels is the same one.
func (c *call) export(name string) error {
	var r agentapi.ExportRequest
	if err := c.read(&r); err != nil {
		return err
	}
	ip, err := id.ParseClient(r.Client)
	if err != nil {
		return agentapi.Errorf(agentapi.Invalid, "client: %w", err)
	}
	if err := checkLabels(r.Labels); err != nil {
		return err
	}
	v, err := c.volume(name)
	if err != nil {
		return err
	}
	client, labels := ip.String(), or2(r.Labels)
	same := func(e agentapi.ExportEntry) bool { return e.Client == client && maps.Equal(e.Labels, labels) }
	v.Clients = append(slices.DeleteFunc(slices.Clone(v.Clients), same), agentapi.ExportEntry{
		Name: name, Client: client, Labels: labels, ReadOnly: r.ReadOnly, CreatedBy: labels[agentapi.CreatedByLabel], CreatedAt: now(),
	})
	answer(c.w, http.StatusOK, agentapi.Export{
		Path: v.Path, MountPath: v.Path + "/" + agentapi.DataDir, MountOptions: []string{"vers=4.2"}, UsageToken: usageToken(name, client),
	})
	return nil
}

func (c *call) unexport(name string) error {
	var r agentapi.UnexportRequest
	if err := c.read(&r); err != nil {
		return err
	}
	ip, err := id.ParseClient(r.Client)
	if err != nil {
		return agentapi.Errorf(agentapi.Invalid, "client: %w", err)
	}
	if v, ok := c.tenant.volumes[name]; ok {
		known := slices.ContainsFunc(v.Clients, func(e agentapi.ExportEntry) bool { return e.Client == ip.String() })
		if v.Health != nil && v.Health.Status == agentapi.StatusDegraded && !known {
			return agentapi.Errorf(agentapi.Quarantined, "volume %q is quarantined, and its references cannot all be read", name)
		}
		v.Clients = slices.DeleteFunc(slices.Clone(v.Clients), func(e agentapi.ExportEntry) bool {
			if e.Client != ip.String() {
				return false
			}
			for key, value := range r.Labels {
				if e.Labels[key] != value {
					return false
				}
			}
			return true
		})
	}
	answer(c.w, http.StatusNoContent, nil)
	return nil
}

// usage is for the tenant's own volumes. It checks the usage token of an export if the request has
// one.
func (c *call) usage(name string) error {
	v, err := c.volume(name)
	if err != nil {
		return err
	}
	if token := c.r.Header.Get(agentapi.UsageTokenHeader); token != "" && !slices.ContainsFunc(v.Clients, func(e agentapi.ExportEntry) bool { return token == usageToken(name, e.Client) }) {
		return agentapi.Errorf(agentapi.Forbidden, "the usage token is not of this volume")
	}
	answer(c.w, http.StatusOK, agentapi.Usage{QuotaBytes: v.QuotaBytes, UsedBytes: v.UsedBytes, Health: agentapi.VolumeHealth{Status: agentapi.StatusOK}})
	return nil
}

func usageToken(volume, client string) string { return "usage-of-" + volume + "-by-" + client }

func (c *call) stats() {
	answer(c.w, http.StatusOK, agentapi.Stats{
		TenantName: c.tenant.name, TenantLimits: c.tenant.limits,
		Statfs: agentapi.StatfsStats{TotalBytes: DefaultPoolBytes, FreeBytes: c.agent.free, UsedBytes: DefaultPoolBytes - c.agent.free},
		Btrfs:  agentapi.BtrfsStats{TotalBytes: DefaultPoolBytes, FreeBytes: c.agent.free, UsedBytes: DefaultPoolBytes - c.agent.free, DataRatio: 1},
	})
}
