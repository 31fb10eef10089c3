package driver

import (
	"context"
	"encoding/base64"
	"encoding/json"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/agents"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
)

const (
	pageItems = 200 // requested from an agent at once
	// maxAnswer is the size in bytes at which a list without max_entries is cut. The list continues
	// with next_token. gRPC clients accept 4 MiB.
	maxAnswer = 2 << 20
)

// cursor is the position of a list: a tenant of an agent, and the agent's own cursor. A class
// cannot replace the tenant, because a deleted class can have several.
type cursor struct {
	Target string `json:"t"` // tenantKey
	After  string `json:"a,omitempty"`
}

// tenantKey is short: a token has at most 128 bytes (CSI spec, "Size Limits").
func tenantKey(t *agents.Target) string { return t.Tenant()[:16] }

func (c cursor) String() string {
	text, err := json.Marshal(c)
	if err != nil {
		return "" // two strings can always be marshalled
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// parseCursor parses a starting_token. A token of another origin is Aborted (CSI spec, "ListVolumes
// Errors").
func parseCursor(token string) (cursor, error) {
	var c cursor
	if token == "" {
		return c, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(token)
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	if err != nil || c.Target == "" {
		return cursor{}, badToken(token)
	}
	return c, nil
}

func badToken(token string) error {
	return status.Errorf(codes.Aborted, "starting_token must be a token of this driver that is still valid, got %q: list from the start", token)
}

// fetch reads a page of an agent into the answer, and returns the agent's cursor of the next page.
type fetch func(ctx context.Context, target *agents.Target, page agentclient.Page) (next string, err error)

// walk visits the agents, starting at a token, until limit entries (0: no limit) are in the answer
// or the answer is large. count and answer give the entries that the fetches have collected so far.
// It returns the next token, "" at the end.
func walk(ctx context.Context, targets []*agents.Target, token string, limit int, answer proto.Message, count func() int, fetch fetch) (string, error) {
	at, err := parseCursor(token)
	if err != nil {
		return "", err
	}
	targets, err = from(targets, at, token)
	if err != nil {
		return "", err
	}
	for i, target := range targets {
		after := ""
		if i == 0 {
			after = at.After
		}
		for first := true; first || after != ""; first = false {
			page := agentclient.Page{After: after, Limit: pageItems}
			if limit > 0 {
				page.Limit = min(pageItems, limit-count())
			}
			if page.Limit <= 0 || proto.Size(answer) > maxAnswer {
				return cursor{tenantKey(target), after}.String(), nil
			}
			next, err := fetch(ctx, target, page)
			if agentapi.IsCode(err, agentapi.Invalid) && after != "" && after == at.After {
				return "", badToken(token) // the agent does not know the cursor
			}
			if err != nil {
				return "", err
			}
			if next != "" && next == after {
				return "", status.Errorf(codes.Internal, "agent %s: its list does not advance", target.URL())
			}
			after = next
		}
	}
	return "", nil
}

func from(targets []*agents.Target, at cursor, token string) ([]*agents.Target, error) {
	if at.Target == "" {
		return targets, nil
	}
	for i, target := range targets {
		if tenantKey(target) == at.Target {
			return targets[i:], nil
		}
	}
	return nil, badToken(token)
}

func checkMaxEntries(n int32) error {
	if n < 0 {
		return invalidf("max_entries must not be negative, got %d", n)
	}
	return nil
}
