package agents

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/class"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
)

// ErrUnknownClass means that no source gives the location of the class's agent: no StorageClass, no
// PersistentVolume and no entry of the static classes file.
var ErrUnknownClass = errors.New("no StorageClass, PersistentVolume or static class names its agent: create a class of that name again")

// location is the agent and the token of a class's volumes, as one of the sources gives them.
type location struct {
	name       string                  // name of the class, or its key if the class is deleted
	key        string                  // id.ClassKey(name)
	parameters map[string]string       // as the source has them
	tokens     agentclient.TokenSource // nil if there is none
	tokensErr  error                   // why there is none
}

// parse reads the parameters of an existing location. An error in them is not the caller's fault.
func (l location) parse() (class.Parameters, error) {
	parsed, err := class.Parse(l.parameters)
	if err == nil && parsed.AgentURL == "" {
		err = fmt.Errorf("parameter %q must be set", class.AgentURL)
	}
	if err != nil {
		return parsed, l.misconfigured(err)
	}
	return parsed, nil
}

func (l location) misconfigured(reason error) error {
	return fmt.Errorf("%w: storage class %s: %w", class.ErrMisconfigured, l.name, reason)
}

func byName(locations []location) []location {
	slices.SortStableFunc(locations, func(a, b location) int { return cmp.Compare(a.name, b.name) })
	return locations
}

// clientFor returns the client for the tenant at a location. A token in the request takes
// precedence.
func (r *Registry) clientFor(ctx context.Context, l location, agentURL string, secrets map[string]string) (*agentclient.Client, error) {
	token, given, err := class.TokenFrom(secrets)
	if err != nil {
		return nil, agentapi.Errorf(agentapi.Invalid, "secrets: %w", err)
	}
	if given {
		return r.clients.Get(agentURL, token, nil)
	}
	if l.tokens == nil {
		reason := l.tokensErr
		if reason == nil {
			reason = fmt.Errorf("neither the request nor the class names a secret with the key %q", class.TokenKey)
		}
		return nil, l.misconfigured(reason)
	}
	token, err = l.tokens.Token(ctx, false)
	if err != nil {
		return nil, fmt.Errorf("storage class %s: %w", l.name, err)
	}
	return r.clients.Get(agentURL, token, l.tokens)
}
