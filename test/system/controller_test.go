//go:build lab

package system_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/controllertest"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/system"
)

// realAgents runs the controller's behaviour suite on real agents, each with a part of the pool and
// a separate port.
type realAgents struct {
	*system.System
	agents, controllers int
}

func (r *realAgents) Agent(t *testing.T, tenants map[string]string) string {
	t.Helper()
	r.agents++
	name := fmt.Sprintf("agent-%d", r.agents)
	base := filepath.Join(r.Lab.Pool, name)
	assert.NilError(t, os.Mkdir(base, 0o700))
	var pairs []string
	for _, token := range slices.Sorted(maps.Keys(tenants)) {
		pairs = append(pairs, tenants[token]+":"+token)
	}
	port := fmt.Sprint(9100 + r.agents)
	agent, err := r.NewAgent(name, base, port, []string{
		"AGENT_TENANTS=" + strings.Join(pairs, ","), "AGENT_METRICS_ADDR=", "AGENT_NFS_EXPORTER=exportfs",
		"AGENT_NFS_EXPORTS_FILE=/etc/exports.d/" + name + ".exports",
	})
	assert.NilError(t, err)
	start(t, agent)
	return fmt.Sprintf("http://%s:%s", r.Lab.Storage.IP, port)
}

func (r *realAgents) Controller(t *testing.T, classes []controllertest.Class) grpc.ClientConnInterface {
	t.Helper()
	r.controllers++
	controller, conn, err := r.NewController(fmt.Sprintf("controller-%d", r.controllers), classes)
	assert.NilError(t, err)
	start(t, controller)
	return conn
}

func start(t *testing.T, d *system.Daemon) {
	t.Helper()
	assert.NilError(t, d.Start())
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(d.Tail())
		}
		assert.Check(t, d.Stop())
	})
}

func TestControllerOnRealAgents(t *testing.T) {
	s := system.New(t, system.Options{Lab: lab.Options{PoolSize: 64 << 30}})
	assert.NilError(t, s.Agent.Stop()) // no agent may use this pool while other agents use parts of it
	controllertest.Run(t, &realAgents{System: s})
}
