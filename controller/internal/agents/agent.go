// Package agents finds the agent and the tenant behind a StorageClass, a volume or a snapshot, at the time of each call,
// so that URLs and tokens may change under existing volumes.
package agents

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
	"sync"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
)

// Agent is one tenant of one agent. When the agent refuses a token that came from a class's secret, the secret is read
// anew once and the call repeated: that is how a rotated token is noticed. Errors name the agent. It is safe for
// concurrent use.
type Agent struct {
	url     string
	clients *Clients
	source  tokenSource // nil for a token that came with the request

	mu    sync.Mutex
	token string
}

// tokenSource gives a tenant's token. fresh asks for the token as it is now, not as it was read a while ago.
type tokenSource interface {
	token(ctx context.Context, fresh bool) (string, error)
}

// URL of the agent, as configured.
func (a *Agent) URL() string { return a.url }

// Same tells whether both are the same tenant of the same agent.
func (a *Agent) Same(other *Agent) bool { return a.identity() == other.identity() }

func (a *Agent) identity() clientKey {
	a.mu.Lock()
	defer a.mu.Unlock()
	return keyOf(a.url, a.token)
}

// Key tells tenants of agents apart. It is another one for another URL or token and holds neither.
func (a *Agent) Key() string {
	identity := a.identity()
	sum := sha256.Sum256([]byte(identity.url + " " + identity.token))
	return hex.EncodeToString(sum[:8])
}

// SameHost tells whether both are the same agent, whatever the tenants.
func (a *Agent) SameHost(other *Agent) bool { return normalise(a.url) == normalise(other.url) }

// call runs f with the agent's client.
func call[T any](ctx context.Context, a *Agent, f func(*agentclient.Client) (T, error)) (T, error) {
	a.mu.Lock()
	token := a.token
	a.mu.Unlock()
	out, err := callWith(a, token, f)
	if a.source != nil && agentapi.IsCode(err, agentapi.Unauthorized) {
		if renewed, e := a.source.token(ctx, true); e == nil && renewed != token {
			a.mu.Lock()
			a.token = renewed
			a.mu.Unlock()
			out, err = callWith(a, renewed, f)
		}
	}
	if err != nil {
		var zero T
		return zero, fmt.Errorf("agent %s: %w", a.url, err)
	}
	return out, nil
}

func callWith[T any](a *Agent, token string, f func(*agentclient.Client) (T, error)) (T, error) {
	client, err := a.clients.get(a.url, token)
	if err != nil {
		var zero T
		return zero, err
	}
	return f(client)
}

// do is call for what answers nothing.
func (a *Agent) do(ctx context.Context, f func(*agentclient.Client) error) error {
	_, err := call(ctx, a, func(c *agentclient.Client) (struct{}, error) { return struct{}{}, f(c) })
	return err
}

// clientKey tells apart what must never share a client. It holds no token.
type clientKey struct{ url, token string }

func keyOf(agentURL, token string) clientKey {
	sum := sha256.Sum256([]byte(token))
	return clientKey{url: normalise(agentURL), token: hex.EncodeToString(sum[:])}
}

// normalise makes the spellings of one URL equal.
func normalise(agentURL string) string {
	u, err := url.Parse(agentURL)
	if err != nil {
		return agentURL
	}
	u.Scheme, u.Host = strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	switch {
	case u.Scheme == "http" && u.Port() == "80":
		u.Host = strings.TrimSuffix(u.Host, ":80")
	case u.Scheme == "https" && u.Port() == "443":
		u.Host = strings.TrimSuffix(u.Host, ":443")
	}
	u.Path = strings.TrimRight(u.Path, "/")
	return u.String()
}
