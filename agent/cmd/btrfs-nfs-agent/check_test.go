package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

// runCommand runs the command line of the agent and returns its output, its exit code and its
// error.
func runCommand(t *testing.T, args ...string) (out string, code int, err error) {
	t.Helper()
	var printed bytes.Buffer
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(&printed)
	root.SetErr(&printed)
	if err = root.ExecuteContext(t.Context()); err != nil {
		code, _ = exitCode(err)
	}
	return printed.String(), code, err
}

func TestCheckCommand(t *testing.T) {
	pool := testpool.New(t, testpool.Options{})
	t.Setenv("AGENT_BASE_PATH", pool.Dir)
	t.Setenv("AGENT_TENANTS", "a:token-of-a")
	store, err := storage.Open(t.Context(), initialised(t, storage.Config{BasePath: pool.Dir, Tenants: []string{"a"}}), noServer{})
	assert.NilError(t, err)

	_, code, err := runCommand(t, "check")
	assert.Equal(t, code, 2)
	assert.ErrorContains(t, err, "another agent has "+pool.Dir)
	assert.NilError(t, store.Close(context.Background()))

	out, code, _ := runCommand(t, "check")
	assert.Equal(t, code, 0, out)
	assert.Equal(t, out, pool.Dir+" is clean.\n")

	assert.NilError(t, os.Mkdir(filepath.Join(pool.Dir, "a", ".trash-0123456789abcdef"), 0o700))
	out, code, err = runCommand(t, "check")
	assert.Equal(t, code, 1)
	_, silent := exitCode(err)
	assert.Assert(t, silent)
	assert.Assert(t, is.Contains(out, "interrupted-deletion: "+pool.Dir+"/a/.trash-0123456789abcdef"))

	out, code, _ = runCommand(t, "check", "--repair", "-o", "json")
	assert.Equal(t, code, 1)
	var report map[string]any
	assert.NilError(t, json.Unmarshal([]byte(out), &report), out)
	assert.Equal(t, report["repair"], true)
	_, code, _ = runCommand(t, "check")
	assert.Equal(t, code, 0)
}

func TestCheckCommandThatCannotBeMade(t *testing.T) {
	t.Setenv("AGENT_BASE_PATH", t.TempDir()+"/missing")
	t.Setenv("AGENT_TENANTS", "a:token-of-a")
	for _, args := range [][]string{{}, {"-o", "xml"}, {"--unknown"}, {"argument"}} {
		_, code, err := runCommand(t, append([]string{"check"}, args...)...)
		assert.Equal(t, code, 2, "%v: %v", args, err)
	}
	t.Setenv("AGENT_BASE_PATH", "")
	_, code, err := runCommand(t, "check")
	assert.Equal(t, code, 2)
	assert.ErrorContains(t, err, "AGENT_BASE_PATH")
}
