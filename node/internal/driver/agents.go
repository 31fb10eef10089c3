package driver

import (
	"context"
	"sync"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
)

// AgentPool asks agents over HTTP. It keeps one client an agent. It is safe for concurrent use.
type AgentPool struct {
	options agentclient.Options

	mu      sync.Mutex
	clients map[string]*agentclient.Client // by URL
}

// NewAgentPool makes the clients, when they are needed, with these options; a token there would be sent with every call, so
// there should be none.
func NewAgentPool(options agentclient.Options) *AgentPool {
	return &AgentPool{options: options, clients: map[string]*agentclient.Client{}}
}

// Usage asks the agent at the URL.
func (p *AgentPool) Usage(ctx context.Context, agentURL, volume, usageToken string) (*agentapi.Usage, error) {
	client, err := p.client(agentURL)
	if err != nil {
		return nil, err
	}
	return client.UsageWithToken(ctx, volume, usageToken)
}

// Health asks the agent at the URL.
func (p *AgentPool) Health(ctx context.Context, agentURL string) (*agentapi.Health, error) {
	client, err := p.client(agentURL)
	if err != nil {
		return nil, err
	}
	return client.Health(ctx)
}

// Close ends idle connections.
func (p *AgentPool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, client := range p.clients {
		client.Close()
	}
}

func (p *AgentPool) client(agentURL string) (*agentclient.Client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if client, ok := p.clients[agentURL]; ok {
		return client, nil
	}
	client, err := agentclient.New(agentURL, p.options)
	if err != nil {
		return nil, err
	}
	p.clients[agentURL] = client
	return client, nil
}
