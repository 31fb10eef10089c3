package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

// The command asks first and then removes the key, but not while an agent uses the pool. In the lab
// it also stops the server.
func TestRotateKeyCommand(t *testing.T) {
	pool := testpool.New(t, testpool.Options{})
	t.Setenv("AGENT_BASE_PATH", pool.Dir)
	t.Setenv("AGENT_TENANTS", "a:token-of-a")
	rotate := []string{"nfs", "rotate-key", "--env-file", "/none"}
	opened, err := storage.OpenPool(initialised(t, storage.Config{BasePath: pool.Dir}))
	assert.NilError(t, err)
	key := handleKeyFile(pool.Dir)
	assert.NilError(t, os.WriteFile(key, make([]byte, 16), 0o600))
	_, _, err = runCommand(t, append(rotate, "--yes")...)
	assert.ErrorContains(t, err, "another agent has "+pool.Dir)
	opened.Close()

	_, code, err := runCommand(t, rotate...)
	assert.ErrorContains(t, err, "not confirmed")
	assert.Equal(t, code, 8)
	_, err = os.Stat(key)
	assert.NilError(t, err)
	for _, says := range []string{"The key is removed.", "There was no key."} {
		out, _, err := runCommand(t, append(rotate, "--yes")...)
		assert.NilError(t, err)
		assert.Assert(t, is.Contains(out, says))
		_, err = os.Stat(key)
		assert.ErrorIs(t, err, os.ErrNotExist)
	}
}

// The scope is that of the filesystem, and does not depend on the directory of the volumes.
func TestScopeCommand(t *testing.T) {
	pool := testpool.New(t, testpool.Options{})
	uuid, err := exec.Command("findmnt", "-n", "-o", "UUID", "--target", pool.Dir).Output()
	assert.NilError(t, err)
	assert.NilError(t, os.Mkdir(pool.Dir+"/volumes", 0o755))
	t.Setenv("AGENT_TENANTS", "a:token-of-a")
	for _, dir := range []string{pool.Dir, pool.Dir + "/volumes"} {
		t.Setenv("AGENT_BASE_PATH", dir)
		out, _, err := runCommand(t, "nfs", "scope", "--env-file", "/none")
		assert.NilError(t, err)
		assert.Equal(t, out, "btrfs-nfs-"+strings.TrimSpace(string(uuid))+"\n")
	}
	// With AGENT_POOL_ID, it is not that of the filesystem below the mount point.
	t.Setenv("AGENT_BASE_PATH", pool.Dir)
	t.Setenv("AGENT_POOL_ID", "6f1c8b52-2a0e-4c1b-9a57-0d6f3f1f8a11")
	_, _, err = runCommand(t, "nfs", "scope", "--env-file", "/none")
	assert.ErrorContains(t, err, "has no pool ID: is the filesystem mounted?")
	t.Setenv("AGENT_POOL_ID", "")
	t.Setenv("AGENT_BASE_PATH", "/proc")
	_, _, err = runCommand(t, "nfs", "scope", "--env-file", "/none")
	assert.ErrorContains(t, err, "scope of the NFS server")
}
