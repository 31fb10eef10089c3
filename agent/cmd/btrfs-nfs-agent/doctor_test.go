package main

import (
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/doctor"
)

// The doctor reads the environment file of the unit, queries the running agent, and prints no
// token.
func TestDoctorCommand(t *testing.T) {
	a := start(t)
	a.ignoreNotifications()
	address, err := url.Parse(a.url)
	assert.NilError(t, err)
	for _, name := range []string{"AGENT_BASE_PATH", "AGENT_TENANTS", "AGENT_LISTEN_ADDR"} {
		t.Setenv(name, "") // so that the test restores it at the end
		assert.NilError(t, os.Unsetenv(name))
	}
	file := filepath.Join(t.TempDir(), "agent.env")
	assert.NilError(t, os.WriteFile(file, []byte("# comment\nAGENT_BASE_PATH=\"/nowhere\"\nAGENT_TENANTS=a:token-of-a\nAGENT_LISTEN_ADDR="+address.Host+"\n"), 0o600))
	out, code, _ := runCommand(t, "doctor", "--env-file", file, "-o", "json")
	assert.Equal(t, code, 1, out)
	assert.Assert(t, !strings.Contains(out, "token-of-a"))
	var report doctor.Report
	assert.NilError(t, json.Unmarshal([]byte(out), &report))
	found := map[string]string{}
	for _, f := range report.Findings {
		found[f.Check] += string(f.Status) + ": " + f.Detail + "\n"
	}
	assert.Assert(t, is.Contains(found["base path"], "problem: /nowhere does not exist"))
	assert.Assert(t, is.Contains(found["agent"], "ok: dev, ok"))
	assert.Assert(t, is.Contains(found["ports"], "the agent listens on "+address.Host))

	out, _, _ = runCommand(t, "doctor", "--env-file", file)
	assert.Assert(t, is.Contains(out, "-> Mount the filesystem"))
	for _, args := range [][]string{{"-o", "xml"}, {"argument"}, {"--unknown"}} {
		_, code, err = runCommand(t, append([]string{"doctor"}, args...)...)
		assert.Equal(t, code, 2, "%v", err)
	}
	assert.NilError(t, os.WriteFile(file, []byte("a:token-of-a\n"), 0o600))
	_, code, err = runCommand(t, "doctor", "--env-file", file)
	assert.Assert(t, code == 2 && !strings.Contains(err.Error(), "token-of-a"), "%v", err)
}
