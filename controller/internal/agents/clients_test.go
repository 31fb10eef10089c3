package agents

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/class"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
)

// Fault 14: the peer had one client for an agent, whatever the tenant.
func TestFault14ClientsAreNeverSharedBetweenTokens(t *testing.T) {
	clients := NewClients(agentclient.Options{})
	defer clients.Close()
	get := func(url, token string) *agentclient.Client {
		client, err := clients.get(url, token)
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
		assert.Assert(t, key.token != "one" && key.token != "two", "the token itself is not kept as a key")
	}
}

func TestUnusedClientsAreClosed(t *testing.T) {
	now := time.Now()
	clients := NewClients(agentclient.Options{})
	clients.now = func() time.Time { return now }
	defer clients.Close()
	for _, token := range []string{"old", "current"} {
		_, err := clients.get("http://host:8080", token)
		assert.NilError(t, err)
	}
	now = now.Add(clientIdle)
	_, err := clients.get("http://host:8080", "current")
	assert.NilError(t, err)
	now = now.Add(time.Second)
	_, err = clients.get("http://host:8080", "current")
	assert.NilError(t, err)
	assert.Equal(t, len(clients.clients), 1)
	assert.Assert(t, cmp.Contains(clients.clients, keyOf("http://host:8080", "current")))
}

func TestTheClassesFileIsReadAnewWhenItChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "classes.yaml")
	write := func(text string) {
		t.Helper()
		assert.NilError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	write(`[{"name": "a", "parameters": {"agentURL": "http://one:8080"}, "token": "t"}]`)
	static, err := NewStatic(path, slog.New(slog.DiscardHandler))
	assert.NilError(t, err)
	url := func() string {
		p, found := static.byKey("a")
		assert.Assert(t, found)
		return p.parameters[class.AgentURL]
	}
	assert.Equal(t, url(), "http://one:8080")
	write("- name: a\n  parameters: {agentURL: 'http://second:8080'}\n  token: t\n")
	assert.Equal(t, url(), "http://second:8080")
	write("this is no list of classes")
	assert.Equal(t, url(), "http://second:8080", "what was read before stays in use")
	assert.NilError(t, os.Remove(path))
	assert.Equal(t, url(), "http://second:8080")
}

func TestATokenFileCountsAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	for _, token := range []string{"first", "second"} {
		assert.NilError(t, os.WriteFile(path, []byte(token+"\n"), 0o600))
		got, err := tokenFile(path).token(t.Context(), false)
		assert.NilError(t, err)
		assert.Equal(t, got, token)
	}
	assert.NilError(t, os.WriteFile(path, nil, 0o600))
	_, err := tokenFile(path).token(t.Context(), false)
	assert.ErrorIs(t, err, ErrMisconfigured)
	assert.ErrorContains(t, err, "is empty")
}

func TestBadClassesFiles(t *testing.T) {
	for text, want := range map[string]string{
		`{}`:                   "cannot unmarshal",
		`[{"nam": "a"}]`:       "unknown field",
		`[{"parameters": {}}]`: "must not be empty",
		`[{"name": "a b"}]`:    "may hold only",
		`[{"name": "a"}]`:      "agentURL",
		`[{"name": "a", "parameters": {"agentURL": "x"}}]`:                                                               "agentURL",
		`[{"name": "a", "parameters": {"agentURL": "http://h", "bogus": "1"}}]`:                                          "bogus",
		`[{"name": "a", "parameters": {"agentURL": "http://h", "storageClassName": "b"}}]`:                               "storageClassName",
		`[{"name": "a", "parameters": {"agentURL": "http://h"}, "token": "x", "tokenFile": "y"}]`:                        "exclude each other",
		`[{"name": "a", "parameters": {"agentURL": "http://h"}, "token": "x y"}]`:                                        "token",
		`[{"name": "a", "parameters": {"agentURL": "http://h"}}, {"name": "a", "parameters": {"agentURL": "http://h"}}]`: "twice",
	} {
		path := filepath.Join(t.TempDir(), "classes.yaml")
		assert.NilError(t, os.WriteFile(path, []byte(text), 0o600))
		_, err := NewStatic(path, slog.New(slog.DiscardHandler))
		assert.ErrorContains(t, err, want, text)
	}
}
