package agentclient

import (
	"context"
	"sync"
	"time"
)

// idleTime is how long the pool keeps an unused client. Its class may be deleted, or its token
// rotated.
const idleTime = 10 * time.Minute

// TokenSource reads a tenant's token. A pool compares sources with ==.
type TokenSource interface {
	// Token reads the token. fresh bypasses caches.
	Token(ctx context.Context, fresh bool) (string, error)
}

// Pool keeps one client with open connections for each agent and token. Two tenants never share a
// client. It is safe for concurrent use. The owner has to close it.
type Pool struct {
	options Options // without the token
	now     func() time.Time

	mu      sync.Mutex
	clients map[poolKey]*pooled
}

type poolKey struct {
	tenant string // Client.Tenant
	source TokenSource
}

type pooled struct {
	*Client
	used time.Time
}

// NewPool returns a pool whose clients have these options.
func NewPool(options Options) *Pool {
	return &Pool{options: options, now: time.Now, clients: map[poolKey]*pooled{}}
}

// Get returns the client of an agent for a token, "" for no token. When the agent refuses the
// token, the client reads it again from the source. The source is nil for a token that never
// changes.
func (p *Pool) Get(agentURL, token string, source TokenSource) (*Client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	p.closeIdle(now)

	key := poolKey{tenantOf(agentURL, token), source}
	if client, found := p.clients[key]; found {
		client.used = now
		return client.Client, nil
	}

	options := p.options
	options.Token, options.Source = token, source
	client, err := New(agentURL, options)
	if err != nil {
		return nil, err
	}
	p.clients[key] = &pooled{client, now}
	return client, nil
}

// Close closes all idle connections.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, client := range p.clients {
		client.Close()
		delete(p.clients, key)
	}
}

// closeIdle does not interrupt calls in progress: Client.Close closes only idle connections.
func (p *Pool) closeIdle(now time.Time) {
	for key, client := range p.clients {
		if now.Sub(client.used) > idleTime {
			client.Close()
			delete(p.clients, key)
		}
	}
}
