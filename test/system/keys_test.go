//go:build lab

package system_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/system"
)

// The key for file handles exists only while they are signed. It never differs from the key that
// the running server has. A refused start does not affect mounts. After a change of the key, a pod
// finds its files again by their names.
func TestHandleKey(t *testing.T) {
	s := system.New(t, system.Options{Lab: lab.Options{Nodes: 1, NFS: lab.Agent}, AgentEnv: []string{"AGENT_NFS_EXPORTER=kernel"}})
	if strings.Contains(s.Agent.Log(), "this kernel is too old") {
		t.Skip("this kernel cannot sign file handles")
	}
	key := filepath.Join(s.Lab.Pool, ".agent", "nfs-handles.key")
	missing := func() {
		t.Helper()
		_, err := os.Stat(key)
		assert.ErrorIs(t, err, os.ErrNotExist)
	}
	read := func() string {
		t.Helper()
		content, err := os.ReadFile(key)
		assert.NilError(t, err)
		return string(content)
	}
	rotate := func(flag string) (string, error) {
		return s.Lab.Storage.Run("sh", "-c", fmt.Sprintf("AGENT_BASE_PATH=%s AGENT_TENANTS=%s:%s %s/btrfs-nfs-agent nfs rotate-key --env-file /none %s 2>&1",
			s.Lab.Pool, system.Tenant, system.Token, os.Getenv("BNC_BIN"), flag))
	}
	pod := system.Attach(t, s, 0, system.Create(t, s, "v"), system.AttachOptions{})
	works := func(step string) {
		t.Helper()
		assert.Equal(t, strings.TrimSpace(system.Shell(t, pod, `mkdir -p "$V/d" && echo `+step+` > "$V/d/file" && cat "$V/d/file"`)), step)
	}
	works("unsigned")
	missing()

	assert.NilError(t, s.Agent.Stop())
	s.Agent.SetEnv("AGENT_NFS_SIGN_HANDLES=true")
	assert.ErrorContains(t, s.Agent.Start(), "the running NFS server has no key")
	missing()
	works("refused")
	_, err := rotate("")
	assert.ErrorContains(t, err, "exit status 8")
	works("asked")
	out, err := rotate("--yes")
	assert.NilError(t, err)
	assert.Assert(t, is.Contains(out, "There was no key."))
	assert.NilError(t, s.Agent.Start())
	works("signed")
	first := read()

	out, err = rotate("--yes")
	assert.ErrorContains(t, err, "exit status 1")
	assert.Assert(t, is.Contains(out, "another agent has"))
	assert.NilError(t, s.Agent.Stop())
	out, err = rotate("--yes")
	assert.NilError(t, err)
	assert.Assert(t, is.Contains(out, "The key is removed."))
	missing()
	assert.NilError(t, s.Agent.Start())
	works("rotated")
	second := read()
	assert.Assert(t, first != second)

	assert.NilError(t, s.Agent.Stop())
	s.Agent.SetEnv("AGENT_NFS_SIGN_HANDLES=false")
	assert.NilError(t, s.Agent.Start())
	missing()
	works("unsigned-again")
	assert.NilError(t, s.Agent.Stop())
	s.Agent.SetEnv("AGENT_NFS_SIGN_HANDLES=true")
	assert.ErrorContains(t, s.Agent.Start(), "nfs-handles.key is missing")
	missing()
	works("refused-again")
	_, err = rotate("--yes")
	assert.NilError(t, err)
	assert.NilError(t, s.Agent.Start())
	works("signed-again")
	assert.Assert(t, read() != second)
}
