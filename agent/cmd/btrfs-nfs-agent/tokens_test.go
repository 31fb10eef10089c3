package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

func TestTenantsFileIsFollowed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tenants")
	age := time.Hour
	write := func(content string) {
		t.Helper()
		assert.NilError(t, os.WriteFile(file, []byte(content), 0o600))
		age -= time.Minute
		at := time.Now().Add(-age)
		assert.NilError(t, os.Chtimes(file, at, at))
	}
	write("a:one\n")
	t.Setenv("AGENT_BASE_PATH", testpool.New(t, testpool.Options{}).Dir)
	t.Setenv("AGENT_TENANTS", "")
	t.Setenv("AGENT_TENANTS_FILE", file)
	c, err := config.Load()
	assert.NilError(t, err)
	opened, err := storage.Open(t.Context(), initialised(t, storageConfig(c)), noServer{})
	assert.NilError(t, err)
	defer func() { assert.NilError(t, opened.Close(t.Context())) }()
	tokens := newTokens(c, slog.New(slog.DiscardHandler))
	store := apiStore{observedStore{opened, tokens, &graceExporter{}}}
	is := func(token, tenant string) {
		t.Helper()
		name, _ := tokens.Tenant(token)
		assert.Equal(t, name, tenant)
	}

	is("one", "a")
	write("a:one\na:two\nnew:three\n")
	is("one", "a")
	is("two", "a")
	is("three", "new")
	_, err = store.Tenant("a")
	assert.NilError(t, err)
	_, err = store.Tenant("new")
	assert.Equal(t, agentapi.CodeOf(err), agentapi.Unavailable)
	assert.ErrorContains(t, err, "restart")

	write("a:two\na:")
	is("one", "a")
	is("two", "a")
	conditions := store.Conditions()
	assert.Equal(t, len(conditions), 1)
	assert.Equal(t, conditions[0].Reason, agentapi.ReasonTokensOutdated)
	assert.Equal(t, len(metricsStore(store).Conditions()), 1)

	write("a:two\n")
	is("one", "")
	is("two", "a")
	assert.Equal(t, len(store.Conditions()), 0)
}
