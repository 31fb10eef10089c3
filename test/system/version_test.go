//go:build lab

package system_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/system"
)

// metricsOf reads the metrics at port $1. It needs only a shell.
const metricsOf = `exec 3<>/dev/tcp/127.0.0.1/$1; printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3; cat <&3`

// Each program reports its version in the first line of its log, in its metrics and in the agent's
// API. All versions are equal.
func TestBuildIsSaid(t *testing.T) {
	s := system.New(t, system.Options{
		AgentEnv: []string{"LOG_FORMAT=logfmt"}, NodeEnv: []string{"LOG_FORMAT=logfmt", "DRIVER_METRICS_ADDR=127.0.0.1:9811"}, Lab: lab.Options{Nodes: 1},
	})
	printed := regexp.MustCompile(`^(\S+) (\S+) \(commit (\S+), (\S+)\)\n$`)
	built := map[string][]string{}
	for program, argument := range map[string]string{"btrfs-nfs-agent": "version", "btrfs-nfs-controller": "-version", "btrfs-nfs-node": "-version"} {
		out, err := exec.Command(filepath.Join(os.Getenv("BNC_BIN"), program), argument).Output()
		assert.NilError(t, err)
		m := printed.FindStringSubmatch(string(out))
		assert.Assert(t, is.Len(m, 5), "%s", out)
		assert.Equal(t, m[1], program)
		built[program] = m[2:]
	}
	want := built["btrfs-nfs-agent"]
	assert.Assert(t, want[2] != "unknown", "the date of the commit is to be linked in")
	for program, d := range map[string]*system.Daemon{"btrfs-nfs-agent": s.Agent, "btrfs-nfs-controller": s.Controller, "btrfs-nfs-node": s.Nodes[0].Driver} {
		assert.DeepEqual(t, built[program], want)
		starting, _, _ := strings.Cut(d.Log()[strings.Index(d.Log(), "starting"):], "\n")
		for key, value := range map[string]string{"version": want[0], "commit": want[1], "date": want[2]} {
			assert.Check(t, is.Contains(strings.ReplaceAll(starting, `"`, ""), " "+key+"="+value), program)
		}
	}
	health, err := s.API.Health(t.Context())
	assert.NilError(t, err)
	assert.DeepEqual(t, []string{health.Version, health.Commit, health.Date}, want)
	out, err := s.Nodes[0].Run("bash", "-c", metricsOf, "metrics", "9811")
	assert.NilError(t, err)
	assert.Assert(t, is.Contains(out, `btrfs_nfs_csi_build_info{commit="`+want[1]+`",component="btrfs-nfs-node",date="`+want[2]+`",version="`+want[0]+`"} 1`))
	out, err = s.Lab.Storage.Run("bash", "-c", metricsOf, "metrics", "9090")
	assert.NilError(t, err)
	assert.Assert(t, is.Contains(out, `btrfs_nfs_agent_build_info{commit="`+want[1]+`",date="`+want[2]+`",version="`+want[0]+`"} 1`))
}
