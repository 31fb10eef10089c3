package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/pool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

// initialised makes the base path of a configuration a pool, unless it is one.
func initialised(t *testing.T, c storage.Config) storage.Config {
	t.Helper()
	_, _, err := pool.Init(c.Pool())
	assert.NilError(t, err)
	return c
}

func TestInitCommand(t *testing.T) {
	pool := testpool.New(t, testpool.Options{})
	c := useCommandLine(t, "", "")
	for _, name := range []string{"AGENT_BASE_PATH", "AGENT_TENANTS", "AGENT_POOL_ID"} {
		t.Setenv(name, "") // so that the test restores it at the end
		assert.NilError(t, os.Unsetenv(name))
	}
	file := filepath.Join(t.TempDir(), "agent.env")
	settings := "AGENT_BASE_PATH=" + pool.Dir + "\nAGENT_TENANTS=a:token-of-a\n"
	assert.NilError(t, os.WriteFile(file, []byte(settings), 0o600))

	out, said, code := c.run("init", "--env-file", file)
	assert.Equal(t, code, 0, said)
	poolID, err := uuid.Parse(strings.TrimSuffix(out, "\n"))
	assert.NilError(t, err)
	assert.Assert(t, is.Contains(said, pool.Dir+" is a new pool."))
	store, err := storage.Open(t.Context(), storage.Config{BasePath: pool.Dir, PoolID: poolID, Tenants: []string{"a"}}, noServer{})
	assert.NilError(t, err)
	again, said, code := c.run("init", "--env-file", file)
	assert.Assert(t, code == 0 && again == out, said)
	assert.Assert(t, is.Contains(said, "already has a pool ID"))
	assert.NilError(t, store.Close(t.Context()))

	other := uuid.NewString()
	t.Setenv("AGENT_POOL_ID", other)
	for _, command := range []string{"init", "migrate", "check", "serve"} {
		args := []string{command}
		if command == "init" || command == "migrate" {
			args = append(args, "--env-file", file)
		}
		_, _, err := runCommand(t, args...)
		assert.ErrorContains(t, err, "AGENT_POOL_ID is "+other+", but base path "+pool.Dir+" has pool ID "+poolID.String(), command)
	}
	t.Setenv("AGENT_POOL_ID", "none")
	_, _, err = runCommand(t, "init", "--env-file", file)
	assert.ErrorContains(t, err, `AGENT_POOL_ID: must be the ID of a pool, as btrfs-nfs-agent init prints it, got "none"`)
}
