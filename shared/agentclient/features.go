package agentclient

import (
	"context"
	"net/http"
	"slices"
	"sync"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// features holds the agent's list from its last health answer.
type features struct {
	mu     sync.Mutex
	listed []string
}

func (f *features) has(feature string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Contains(f.listed, feature)
}

func (f *features) set(listed []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listed = listed
}

// require calls Require for the fields of a request that are set.
func (c *Client) require(ctx context.Context, request any) error {
	fields, err := agentapi.NewerFields(request)
	if err != nil {
		return agentapi.Errorf(agentapi.InternalError, "read the request's fields: %w", err)
	}
	return c.Require(ctx, fields...)
}

// Require fails with Unsupported if the agent does not know one of the fields. If the last list
// lacks the feature, it asks the agent again, because the agent may have been upgraded since.
func (c *Client) Require(ctx context.Context, fields ...agentapi.NewerField) error {
	for _, field := range fields {
		if c.features.has(field.Feature) {
			continue
		}
		health, err := c.Health(ctx)
		if err != nil {
			return agentapi.Errorf(agentapi.Unavailable, "ask for the agent's features: %w", err)
		}
		c.features.set(health.Features)
		if !c.features.has(field.Feature) {
			return c.name(agentapi.Errorf(agentapi.Unsupported, "upgrade the agent: version %q does not know the field %s (feature %s)",
				health.Version, field.Name, field.Feature))
		}
	}
	return nil
}

// send makes a call with a request whose fields the agent must know. After a refusal it asks for
// the features again, because an older agent may have replaced the newer one.
func send[T any](ctx context.Context, c *Client, operation string, request any, call func(context.Context) (*http.Response, error)) (*T, error) {
	if err := c.require(ctx, request); err != nil {
		return nil, err
	}
	out, err := one[T](ctx, c, operation, call)
	if agentapi.IsCode(err, agentapi.BadRequest) {
		c.features.set(nil)
		if missing := c.require(ctx, request); agentapi.IsCode(missing, agentapi.Unsupported) {
			return nil, missing
		}
	}
	return out, err
}
