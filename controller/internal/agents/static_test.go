package agents

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/class"
)

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
		got, err := tokenFile(path).Token(t.Context(), false)
		assert.NilError(t, err)
		assert.Equal(t, got, token)
	}
	assert.NilError(t, os.WriteFile(path, nil, 0o600))
	_, err := tokenFile(path).Token(t.Context(), false)
	assert.ErrorIs(t, err, class.ErrMisconfigured)
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
		`[{"name": "a", "parameters": {"agentURL": "http://h"}, "token": "x", "tokenFile": "y"}]`:                        "must not be set together",
		`[{"name": "a", "parameters": {"agentURL": "http://h"}, "token": "x y"}]`:                                        "token",
		`[{"name": "a", "parameters": {"agentURL": "http://h"}}, {"name": "a", "parameters": {"agentURL": "http://h"}}]`: "must not be repeated",
	} {
		path := filepath.Join(t.TempDir(), "classes.yaml")
		assert.NilError(t, os.WriteFile(path, []byte(text), 0o600))
		_, err := NewStatic(path, slog.New(slog.DiscardHandler))
		assert.ErrorContains(t, err, want, text)
	}
}
