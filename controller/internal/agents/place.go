package agents

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/class"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
)

var (
	// ErrUnknownClass means that nothing tells where the class's agent is: neither a StorageClass, nor a
	// PersistentVolume, nor the static classes file.
	ErrUnknownClass = errors.New("no StorageClass, PersistentVolume or static class tells where its agent is: make a class of that name again")
	// ErrMisconfigured means that an administrator has to change a class or a secret.
	ErrMisconfigured = errors.New("wrong configuration")
)

// place is where a class's volumes are, as one of the sources tells it.
type place struct {
	name       string                  // of the class; its key where the class is gone
	key        string                  // id.ClassKey(name)
	parameters map[string]string       // as written
	tokens     agentclient.TokenSource // nil where there is none
	tokensErr  error                   // why there is none
}

// parse reads the parameters of a place that exists already, so a mistake in them is not the caller's.
func (p place) parse() (class.Parameters, error) {
	parsed, err := class.Parse(p.parameters)
	if err == nil && parsed.AgentURL == "" {
		err = fmt.Errorf("parameter %q is missing", class.AgentURL)
	}
	if err != nil {
		return parsed, p.misconfigured(err)
	}
	return parsed, nil
}

func (p place) misconfigured(reason error) error {
	return fmt.Errorf("%w: storage class %s: %w", ErrMisconfigured, p.name, reason)
}

func byName(places []place) []place {
	slices.SortStableFunc(places, func(a, b place) int { return cmp.Compare(a.name, b.name) })
	return places
}

// tokenFrom reads a token out of a secret, as it came with a request or from the API. What stands around it, such as the
// newline of an editor, is not part of it.
func tokenFrom(secret map[string]string) (token string, given bool, err error) {
	value, given := secret[class.TokenKey]
	if !given {
		return "", false, nil
	}
	value = strings.TrimSpace(value)
	if err := checkToken(value); err != nil {
		return "", true, fmt.Errorf("key %q %w", class.TokenKey, err)
	}
	return value, true, nil
}

// checkToken refuses what cannot be sent in a header. The error does not hold the token.
func checkToken(token string) error {
	if token == "" {
		return errors.New("is empty")
	}
	for i := range len(token) {
		if token[i] <= ' ' || token[i] > '~' {
			return fmt.Errorf("holds a character that a token cannot have (byte %d)", i)
		}
	}
	return nil
}

// clientFor is the client of a place's tenant, with the request's token if it brings one.
func (r *Registry) clientFor(ctx context.Context, p place, agentURL string, secrets map[string]string) (*agentclient.Client, error) {
	token, given, err := tokenFrom(secrets)
	if err != nil {
		return nil, agentapi.Errorf(agentapi.Invalid, "secrets: %w", err)
	}
	if given {
		return r.clients.Get(agentURL, token, nil)
	}
	if p.tokens == nil {
		reason := p.tokensErr
		if reason == nil {
			reason = fmt.Errorf("neither the request nor the class names a secret with the key %q", class.TokenKey)
		}
		return nil, p.misconfigured(reason)
	}
	token, err = p.tokens.Token(ctx, false)
	if err != nil {
		return nil, fmt.Errorf("storage class %s: %w", p.name, err)
	}
	return r.clients.Get(agentURL, token, p.tokens)
}
