package agentclient

import (
	"context"
	"sync"
	"time"
)

// idleTime is how long the pool keeps a client that is not used: its class is gone, or its token was
// rotated.
const idleTime = 10 * time.Minute

// TokenSource is where a tenant's token comes from. A pool tells sources apart by ==.
type TokenSource interface {
	// Token reads the token. fresh asks for the token as it is now, not as it was read a while ago.
	Token(ctx context.Context, fresh bool) (string, error)
}

// Pool keeps one client, with its open connections, for each agent and token. Two tenants never share
// one. It is safe for concurrent use. Close it in the end.
type Pool struct {
	options Options // but for the token
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

// NewPool makes a pool whose clients have these options.
func NewPool(options Options) *Pool {
	return &Pool{options: options, now: time.Now, clients: map[poolKey]*pooled{}}
}

// Get returns the client of an agent for a token, "" for none. When the agent refuses the token, the
// client reads it again from the source; nil is for a token that stays as it is.
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

// Close ends all idle connections.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, client := range p.clients {
		client.Close()
		delete(p.clients, key)
	}
}

// closeIdle does not disturb a call under way: Client.Close ends only idle connections.
func (p *Pool) closeIdle(now time.Time) {
	for key, client := range p.clients {
		if now.Sub(client.used) > idleTime {
			client.Close()
			delete(p.clients, key)
		}
	}
}
