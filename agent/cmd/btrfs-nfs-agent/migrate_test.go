package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

func TestMigrateCommand(t *testing.T) {
	pool := testpool.New(t, testpool.Options{})
	c := useCommandLine(t, "", "")
	t.Setenv("AGENT_BASE_PATH", pool.Dir)
	t.Setenv("AGENT_TENANTS", "other:token")
	dir := filepath.Join(pool.Dir, "k8s/v")
	assert.NilError(t, os.MkdirAll(dir, 0o700))
	out, err := exec.Command("btrfs", "subvolume", "create", dir+"/data").CombinedOutput()
	assert.NilError(t, err, "%s", out)
	const before = `{"name":"v","size_bytes":1048576,"mode":"2770"}`
	file := filepath.Join(dir, "metadata.json")
	assert.NilError(t, os.WriteFile(file, []byte(before), 0o600))

	text := c.ok("migrate", "--dry-run", "--env-file", "/none")
	for _, says := range []string{dir + "\n", "- rewrite metadata.json", "1 to take over", "does not name the tenant k8s"} {
		assert.Assert(t, is.Contains(text, says))
	}
	c.fails(exitTrouble, "has no pool ID", "migrate", "--yes", "--env-file", "/none")
	initialised(t, storage.Config{BasePath: pool.Dir})
	c.fails(exitTrouble, "not confirmed", "migrate", "--env-file", "/none")
	content, err := os.ReadFile(file)
	assert.NilError(t, err)
	assert.Equal(t, string(content), before)

	c.stdin = "y\n"
	assert.Assert(t, is.Contains(c.ok("migrate", "--env-file", "/none"), "taken over "+dir))
	assert.Assert(t, is.Contains(c.ok("migrate", "--yes", "-o", "json", "--env-file", "/none"), `"adopted": 1`))
	assert.Assert(t, is.Contains(c.ok("migrate", "--undo", "--yes", "--env-file", "/none"), "put back "+dir))
	content, err = os.ReadFile(file)
	assert.NilError(t, err)
	assert.Equal(t, string(content), before)

	assert.NilError(t, os.WriteFile(file, []byte("{"), 0o600))
	out2, _, code := c.run("migrate", "--dry-run", "--env-file", "/none")
	assert.Assert(t, code == exitFindings && strings.Contains(out2, "LEFT ALONE"), out2)
	store, err := storage.Open(t.Context(), storage.Config{BasePath: pool.Dir, Tenants: []string{"a"}}, noServer{})
	assert.NilError(t, err)
	c.fails(exitTrouble, "another agent", "migrate", "--yes", "--env-file", "/none")
	assert.NilError(t, store.Close(t.Context()))
}
