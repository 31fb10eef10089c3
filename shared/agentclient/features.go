package agentclient

import (
	"context"
	"net/http"
	"slices"
	"sync"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// features are those that the agent listed when it was last asked.
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

// require is Require for the fields of a request that are set.
func (c *Client) require(ctx context.Context, request any) error {
	fields, err := agentapi.NewerFields(request)
	if err != nil {
		return agentapi.Errorf(agentapi.InternalError, "read the request's fields: %w", err)
	}
	return c.Require(ctx, fields...)
}

// Require fails with Unsupported where the agent does not know one of the fields. It asks the agent
// when the last list lacks the feature, because the agent may have been upgraded since.
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

// send makes a call with a request that the agent must know every field of. After a refusal it asks
// for the features again: an older agent may have come back.
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
