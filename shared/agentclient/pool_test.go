package agentclient

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// Fault 14: the peer had one client per agent for all tenants.
func TestFault14ClientsAreNeverSharedBetweenTokens(t *testing.T) {
	clients := NewPool(Options{})
	defer clients.Close()
	get := func(url, token string) *Client {
		client, err := clients.Get(url, token, nil)
		assert.NilError(t, err)
		return client
	}
	first := get("http://host:8080", "one")
	assert.Assert(t, get("http://host:8080", "one") == first)
	assert.Assert(t, get("http://HOST:8080/", "one") == first, "another spelling of the same agent")
	assert.Assert(t, get("http://host:8080", "two") != first)
	assert.Assert(t, get("http://host:8081", "one") != first)
	assert.Assert(t, get("https://host:8080", "one") != first)
	assert.Assert(t, get("http://host", "one") == get("http://host:80", "one"))
	for key := range clients.clients {
		assert.Assert(t, !strings.Contains(key.tenant, "one") && !strings.Contains(key.tenant, "two"), "the token itself is not kept as a key")
	}
}

func TestUnusedClientsAreClosed(t *testing.T) {
	now := time.Now()
	clients := NewPool(Options{})
	clients.now = func() time.Time { return now }
	defer clients.Close()
	for _, token := range []string{"old", "current"} {
		_, err := clients.Get("http://host:8080", token, nil)
		assert.NilError(t, err)
	}
	now = now.Add(idleTime)
	_, err := clients.Get("http://host:8080", "current", nil)
	assert.NilError(t, err)
	now = now.Add(time.Second)
	_, err = clients.Get("http://host:8080", "current", nil)
	assert.NilError(t, err)
	assert.Equal(t, len(clients.clients), 1)
	assert.Assert(t, cmp.Contains(clients.clients, poolKey{tenant: tenantOf("http://host:8080", "current")}))
}

// rotated is a source whose token has changed.
type rotated struct {
	*int  // number of reads
	token string
	err   error
}

func (r rotated) Token(context.Context, bool) (string, error) {
	*r.int++
	return r.token, r.err
}

func TestRefusedTokenIsReadAgainOnce(t *testing.T) {
	for name, c := range map[string]struct {
		source  rotated
		renewed bool
	}{
		"rotated":        {rotated{token: "new"}, true},
		"still wrong":    {rotated{token: "old"}, false},
		"cannot be read": {rotated{err: errors.New("no secret")}, false},
	} {
		reads, calls := 0, 0
		c.source.int = &reads
		client := clientOf(t, func(w http.ResponseWriter, r *http.Request) {
			calls++
			if r.Header.Get("Authorization") == "Bearer new" {
				w.WriteHeader(http.StatusNoContent)
				return
			}
			w.WriteHeader(http.StatusUnauthorized)
		}, Options{Token: "old", Source: c.source})
		before := client.Tenant()
		err := client.DeleteVolume(t.Context(), "v")
		assert.Equal(t, reads, 1, name)
		assert.Equal(t, err == nil, c.renewed, "%s: %v", name, err)
		assert.Equal(t, client.Tenant() != before, c.renewed, name)
		assert.Equal(t, calls, map[bool]int{true: 2, false: 1}[c.renewed], name)
		if !c.renewed {
			assert.Assert(t, agentapi.IsCode(err, agentapi.Unauthorized))
		}
	}
}

func TestErrorsNameTheAgent(t *testing.T) {
	c := clientOf(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }, Options{NameAgent: true})
	err := c.DeleteVolume(t.Context(), "v")
	assert.ErrorContains(t, err, "agent "+c.URL()+": ")
	assert.Assert(t, agentapi.IsCode(err, agentapi.NotFound))
}
