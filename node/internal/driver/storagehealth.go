package driver

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/staged"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
)

// NodeGetStorageHealth checks what all volumes of this node need. It checks that the node can mount
// NFS, has an address to mount from, and that the orchestrator knows this address. It also checks
// that the servers and agents of the staged volumes answer. It asks all of them in parallel, each
// once and within its deadline.
func (n *Node) NodeGetStorageHealth(ctx context.Context, _ *csi.NodeGetStorageHealthRequest) (*csi.NodeGetStorageHealthResponse, error) {
	records, err := n.Store.List()
	if err != nil {
		n.Logger.WarnContext(ctx, "failed to load the records of some volumes", "reason", err)
	}
	servers, agents := map[string][]staged.Record{}, map[string]bool{}
	for _, r := range records {
		server, _, _ := strings.Cut(r.Source, ":/")
		servers[server] = append(servers[server], r)
		if r.AgentURL != "" {
			agents[r.AgentURL] = true
		}
	}
	var own csiserver.Conditions
	n.nodeConditions(ctx, &own)
	ofServers := make([]csiserver.Conditions, len(servers))
	ofAgents := make([]csiserver.Conditions, len(agents))
	var asked sync.WaitGroup
	for i, server := range slices.Sorted(maps.Keys(servers)) {
		asked.Go(func() { n.serverConditions(ctx, &ofServers[i], server, servers[server]) })
	}
	for i, url := range slices.Sorted(maps.Keys(agents)) {
		asked.Go(func() { n.agentConditions(ctx, &ofAgents[i], url) })
	}
	asked.Wait()
	found := slices.Concat(own, slices.Concat(ofServers...), slices.Concat(ofAgents...))
	return &csi.NodeGetStorageHealthResponse{BackendHealth: storageHealth(found)}, nil
}

func (n *Node) nodeConditions(ctx context.Context, found *csiserver.Conditions) {
	if err := n.Supported(ctx); err != nil {
		known := false
		for sentinel, reason := range map[error]string{nfsmount.ErrNoHelper: reasonNoHelper, nfsmount.ErrNoKernelNFS: reasonNoKernelNFS} {
			if errors.Is(err, sentinel) {
				found.Add(inaccessible, reason, "%v", sentinel)
				known = true
			}
		}
		if !known {
			found.Add(degraded, reasonMountFailed, "failed to check for NFS support: %v", err)
		}
	}
	address, err := n.Address()
	switch announced := n.announced.Load(); {
	case err != nil:
		found.Add(inaccessible, reasonNoAddress, "%v", err)
	case announced != nil && *announced != address:
		found.Add(inaccessible, reasonAddressChanged,
			"this node mounts from %s, and is registered with %s: volumes are exported to that address until the node driver is restarted", address, *announced)
	}
}

// serverConditions asks a server about its volumes one by one, until it answers. The answer "stale"
// is a condition of the volume and not of the server. After the first timeout it stops, because the
// other volumes would take as long.
func (n *Node) serverConditions(ctx context.Context, found *csiserver.Conditions, server string, volumes []staged.Record) {
	for _, v := range volumes {
		err := n.Mounts.Check(ctx, v.Dir)
		if errors.Is(err, nfsmount.ErrUnresponsive) {
			found.Add(inaccessible, reasonServerSilent, "NFS server %s, which has %d volumes of this node: %v", server, len(volumes), err)
			return
		}
		if !errors.Is(err, nfsmount.ErrNotMounted) {
			return
		}
	}
}

// agentConditions also repeats the conditions of the agent's pool. A volume works without its
// agent. Attach, detach and usage need the agent.
func (n *Node) agentConditions(ctx context.Context, found *csiserver.Conditions, url string) {
	health, err := n.agentHealth(ctx, url)
	if err != nil {
		found.Add(degraded, reasonAgentSilent, "agent %s: %v", url, err)
		return
	}
	for _, c := range health.Conditions {
		found.Add(csiserver.HealthType(c.Reason), c.Reason, "agent %s: %s", url, c.Message)
	}
}

func (n *Node) agentHealth(ctx context.Context, url string) (*agentapi.Health, error) {
	client, err := n.Agents.Get(url, "", nil)
	if err != nil {
		return nil, err
	}
	return client.Health(ctx)
}

type backendHealth = csi.NodeGetStorageHealthResponse_StorageBackendHealth

// storageHealth converts conditions to those of the node's storage. It joins those that have the
// same reason.
func storageHealth(found csiserver.Conditions) []*backendHealth {
	var joined csiserver.Conditions
	for _, c := range found {
		joined.Add(c.Status, c.Reason, "%s", c.Message)
	}
	var out []*backendHealth
	for _, c := range joined {
		status := csi.StorageHealthErrorType_STORAGE_DEGRADED
		if c.Status == inaccessible {
			status = csi.StorageHealthErrorType_STORAGE_UNREACHABLE
		}
		out = append(out, &backendHealth{Status: status, Reason: c.Reason, Message: c.Message})
	}
	return out
}
