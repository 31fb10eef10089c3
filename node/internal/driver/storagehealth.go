package driver

import (
	"context"
	"errors"
	"fmt"
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

const (
	storageDegraded    = csi.StorageHealthErrorType_STORAGE_DEGRADED
	storageUnreachable = csi.StorageHealthErrorType_STORAGE_UNREACHABLE
)

// NodeGetStorageHealth checks what all volumes of this node need. It checks that the node can mount
// NFS, has an address to mount from, and that the orchestrator knows this address. It also checks
// that the servers and agents of the staged volumes answer. It asks all of them in parallel, each
// once and within its deadline.
func (n *Node) NodeGetStorageHealth(ctx context.Context, _ *csi.NodeGetStorageHealthRequest) (*csi.NodeGetStorageHealthResponse, error) {
	found := &storageConditions{}
	n.nodeConditions(ctx, found)
	records, err := n.Store.List()
	if err != nil {
		n.Logger.WarnContext(ctx, "what was kept of some volumes is lost", "reason", err)
	}
	servers, agents := map[string][]staged.Record{}, map[string]bool{}
	for _, r := range records {
		server, _, _ := strings.Cut(r.Source, ":/")
		servers[server] = append(servers[server], r)
		if r.AgentURL != "" {
			agents[r.AgentURL] = true
		}
	}
	var asked sync.WaitGroup
	for server, volumes := range servers {
		asked.Go(func() { n.serverConditions(ctx, found, server, volumes) })
	}
	for url := range agents {
		asked.Go(func() { n.agentConditions(ctx, found, url) })
	}
	asked.Wait()
	return &csi.NodeGetStorageHealthResponse{BackendHealth: found.entries()}, nil
}

func (n *Node) nodeConditions(ctx context.Context, found *storageConditions) {
	if err := n.Supported(ctx); err != nil {
		known := false
		for sentinel, reason := range map[error]string{nfsmount.ErrNoHelper: reasonNoHelper, nfsmount.ErrNoKernelNFS: reasonNoKernelNFS} {
			if errors.Is(err, sentinel) {
				found.add(storageUnreachable, reason, "%v", sentinel)
				known = true
			}
		}
		if !known {
			found.add(storageDegraded, reasonMountFailed, "whether NFS can be mounted is not known: %v", err)
		}
	}
	address, err := n.Address()
	switch announced := n.announced.Load(); {
	case err != nil:
		found.add(storageUnreachable, reasonNoAddress, "%v", err)
	case announced != nil && *announced != address:
		found.add(storageUnreachable, reasonAddressChanged,
			"this node mounts from %s, and is registered with %s: volumes are exported to that address until the node driver is restarted", address, *announced)
	}
}

// serverConditions asks a server about its volumes one by one, until it answers. The answer "stale"
// is a condition of the volume and not of the server. After the first timeout it stops, because the
// other volumes would take as long.
func (n *Node) serverConditions(ctx context.Context, found *storageConditions, server string, volumes []staged.Record) {
	for _, v := range volumes {
		err := n.Mounts.Check(ctx, v.Dir)
		if errors.Is(err, nfsmount.ErrUnresponsive) {
			found.add(storageUnreachable, reasonServerSilent, "NFS server %s, which has %d volumes of this node: %v", server, len(volumes), err)
			return
		}
		if !errors.Is(err, nfsmount.ErrNotMounted) {
			return
		}
	}
}

// agentConditions also repeats the conditions of the agent's pool. A volume works without its
// agent. Attach, detach and usage need the agent.
func (n *Node) agentConditions(ctx context.Context, found *storageConditions, url string) {
	health, err := n.agentHealth(ctx, url)
	if err != nil {
		found.add(storageDegraded, reasonAgentSilent, "agent %s: %v", url, err)
		return
	}
	for _, c := range health.Conditions {
		status := storageDegraded
		if csiserver.HealthType(c.Reason) == inaccessible {
			status = storageUnreachable
		}
		found.add(status, c.Reason, "agent %s: %s", url, c.Message)
	}
}

func (n *Node) agentHealth(ctx context.Context, url string) (*agentapi.Health, error) {
	client, err := n.Agents.Get(url, "", nil)
	if err != nil {
		return nil, err
	}
	return client.Health(ctx)
}

// storageConditions collects conditions by status and reason. The specification allows each pair
// once. It is safe for concurrent use.
type storageConditions struct {
	mu       sync.Mutex
	messages map[storageCondition][]string
}

type storageCondition struct {
	status csi.StorageHealthErrorType
	reason string
}

func (s *storageConditions) add(status csi.StorageHealthErrorType, reason, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.messages == nil {
		s.messages = map[storageCondition][]string{}
	}
	key := storageCondition{status, reason}
	s.messages[key] = append(s.messages[key], fmt.Sprintf(format, args...))
}

// entries returns the conditions in a stable order, the worst first.
func (s *storageConditions) entries() []*csi.NodeGetStorageHealthResponse_StorageBackendHealth {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := slices.SortedFunc(maps.Keys(s.messages), func(a, b storageCondition) int {
		if a.status != b.status {
			return int(b.status - a.status)
		}
		return strings.Compare(a.reason, b.reason)
	})
	var out []*csi.NodeGetStorageHealthResponse_StorageBackendHealth
	for _, key := range keys {
		messages := slices.Sorted(slices.Values(s.messages[key]))
		out = append(out, &csi.NodeGetStorageHealthResponse_StorageBackendHealth{
			Status: key.status, Reason: key.reason, Message: strings.Join(messages, "; "),
		})
	}
	return out
}
