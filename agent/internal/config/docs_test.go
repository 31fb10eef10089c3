package config

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/configdoc"
)

func TestDocumentationIsCurrent(t *testing.T) { configdoc.Check(t, "agent", Config{}) }

func TestDocumentationOfTheCommandLineIsCurrent(t *testing.T) { configdoc.Check(t, "cli", Client{}) }

const environmentHead = `Settings of btrfs-nfs-agent, read by its systemd unit. After a change: systemctl restart btrfs-nfs-agent
This file holds tokens: it must stay readable for root only. Durations are like 30s or 10m.
What is commented out shows the default.`

func TestEnvironmentFileIsCurrent(t *testing.T) {
	configdoc.CheckFile(t, "agent/packaging/agent.env", configdoc.EnvironmentFile(environmentHead, Config{}))
}

// The defaults in the environment file are those of the program. Only the required settings must be
// filled in.
func TestEnvironmentFileLoads(t *testing.T) {
	environment(t)
	text := configdoc.EnvironmentFile(environmentHead, Config{})
	for _, name := range []string{"AGENT_BASE_PATH", "AGENT_TENANTS"} {
		assert.Assert(t, strings.Contains(text, "\n"+name+"=\n"), name)
	}
	text = strings.NewReplacer("\nAGENT_BASE_PATH=\n", "\nAGENT_BASE_PATH=/pool\n", "\nAGENT_TENANTS=\n", "\nAGENT_TENANTS=\"a:secret\"\n").Replace(text)
	uncommented := regexp.MustCompile(`(?m)^#([A-Z_]+=.+)$`).ReplaceAllString(text, "$1")
	for _, content := range []string{text, uncommented} {
		environment(t)
		for name := range strings.SplitSeq(content, "\n") {
			if name, _, found := strings.Cut(name, "="); found && !strings.HasPrefix(name, "#") {
				t.Setenv(name, "") // so that the test restores it at the end
				assert.NilError(t, os.Unsetenv(name))
			}
		}
		file := filepath.Join(t.TempDir(), "agent.env")
		assert.NilError(t, os.WriteFile(file, []byte(content), 0o600))
		assert.NilError(t, UseFile(file))
		got, err := Load()
		assert.NilError(t, err)
		assert.Equal(t, got.BasePath, "/pool")
		assert.Equal(t, got.Tenants[0].Token.Reveal(), "secret")
		assert.Equal(t, got.ListenAddr, ":8080")
	}
}
