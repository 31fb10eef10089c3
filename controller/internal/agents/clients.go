package agents

import (
	"sync"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
)

// clientIdle is how long a client is kept that nobody asks for: its class is gone, or its token was rotated.
const clientIdle = 10 * time.Minute

// Clients keeps one client, with its open connections, for each pair of agent and token. Two tenants never share one.
type Clients struct {
	options agentclient.Options // but for the token
	now     func() time.Time

	mu      sync.Mutex
	clients map[clientKey]*cachedClient
}

type cachedClient struct {
	*agentclient.Client
	used time.Time
}

// NewClients makes clients with these options. Close them in the end.
func NewClients(options agentclient.Options) *Clients {
	return &Clients{options: options, now: time.Now, clients: map[clientKey]*cachedClient{}}
}

// Close ends all idle connections.
func (c *Clients) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, client := range c.clients {
		client.Close()
		delete(c.clients, key)
	}
}

func (c *Clients) get(agentURL, token string) (*agentclient.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	c.sweep(now)
	key := keyOf(agentURL, token)
	if client, ok := c.clients[key]; ok {
		client.used = now
		return client.Client, nil
	}
	options := c.options
	options.Token = token
	client, err := agentclient.New(agentURL, options)
	if err != nil {
		return nil, agentapi.Errorf(agentapi.InternalError, "%w", err)
	}
	c.clients[key] = &cachedClient{Client: client, used: now}
	return client, nil
}

// sweep closes what is unused. Close ends only idle connections, so a call under way is not disturbed.
func (c *Clients) sweep(now time.Time) {
	for key, client := range c.clients {
		if now.Sub(client.used) > clientIdle {
			client.Close()
			delete(c.clients, key)
		}
	}
}
