package driver

import (
	"context"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
)

// AgentPool calls agents over HTTP, without a tenant's token.
type AgentPool struct{ *agentclient.Pool }

// Usage calls the agent at the URL.
func (p AgentPool) Usage(ctx context.Context, agentURL, volume, usageToken string) (*agentapi.Usage, error) {
	client, err := p.Get(agentURL, "", nil)
	if err != nil {
		return nil, err
	}
	return client.UsageWithToken(ctx, volume, usageToken)
}

// Health calls the agent at the URL.
func (p AgentPool) Health(ctx context.Context, agentURL string) (*agentapi.Health, error) {
	client, err := p.Get(agentURL, "", nil)
	if err != nil {
		return nil, err
	}
	return client.Health(ctx)
}
