package main

import (
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// The unit does not restart the agent after exit code 78 (RestartPreventExitStatus=).
func TestBadSettingsEndWithTheCodeThatStopsRestarts(t *testing.T) {
	link := filepath.Join(t.TempDir(), "link")
	odd := filepath.Join(t.TempDir(), "a\nb")
	assert.NilError(t, os.Mkdir(odd, 0o700))
	assert.NilError(t, os.Symlink(odd, link))
	for name, value := range map[string]string{"AGENT_BASE_PATH": link, "AGENT_QUOTA_MODE": "maybe", "LOG_LEVEL": "loud"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("AGENT_BASE_PATH", t.TempDir())
			t.Setenv("AGENT_TENANTS", "a:secret")
			t.Setenv(name, value)
			_, code, err := runCommand(t, "serve")
			assert.ErrorContains(t, err, name)
			assert.Equal(t, code, exitConfig)
		})
	}
	unit, err := os.ReadFile("../../packaging/btrfs-nfs-agent.service")
	assert.NilError(t, err)
	assert.Assert(t, is.Contains(string(unit), "\nRestartPreventExitStatus=78\n"))
}

func TestSettingsCommand(t *testing.T) {
	file := filepath.Join(t.TempDir(), "agent.env")
	assert.NilError(t, os.WriteFile(file, []byte("AGENT_BASE_PATH=\"/srv/a \\$b\"\n"), 0o600))
	out, code, err := runCommand(t, "settings", "get", "--env-file", file, "AGENT_BASE_PATH")
	assert.NilError(t, err)
	assert.Equal(t, code, 0)
	assert.Equal(t, out, "/srv/a $b\n")
	t.Setenv("AGENT_BASE_PATH", "/srv/a\tb")
	t.Setenv("AGENT_TENANTS", "a:secret")
	_, code, err = runCommand(t, "settings", "check")
	assert.ErrorContains(t, err, "AGENT_BASE_PATH must be UTF-8 without control characters")
	assert.Equal(t, code, exitConfig)
}
