// Package testenv runs the driver in a test, with the same server as the binary.
package testenv

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"gotest.tools/v3/assert"
	"sigs.k8s.io/yaml"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/agents"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/driver"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/controllertest"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/test/logbuffer"
)

// DriverName is the name of drivers under test.
const DriverName = "btrfs-nfs-csi"

// Driver is a driver under test.
type Driver struct {
	*grpc.ClientConn
	Endpoint string
	Log      *logbuffer.Buffer // everything, at level debug
}

// Timeouts of calls to an agent in tests. The first is longer than a call takes on a busy machine.
// The second is for a silent agent, which the test has to wait for.
const (
	AgentTimeout       = 15 * time.Second
	SilentAgentTimeout = 2 * time.Second
)

// Clients returns agent clients as the binary creates them. The test closes them at its end.
func Clients(t *testing.T, timeout time.Duration) *agentclient.Pool {
	clients := agentclient.NewPool(agentclient.Options{Timeout: timeout, RequestID: csiserver.RequestID, NameAgent: true})
	t.Cleanup(clients.Close)
	return clients
}

// Static writes a classes file and opens it.
func Static(t *testing.T, classes []controllertest.Class) (*agents.Static, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "classes.yaml")
	WriteClasses(t, path, classes)
	static, err := agents.NewStatic(path, Logger(t, &logbuffer.Buffer{}))
	assert.NilError(t, err)
	return static, path
}

// WriteClasses replaces a classes file.
func WriteClasses(t *testing.T, path string, classes []controllertest.Class) {
	t.Helper()
	text, err := yaml.Marshal(classes)
	assert.NilError(t, err)
	assert.NilError(t, os.WriteFile(path+".new", text, 0o600))
	assert.NilError(t, os.Rename(path+".new", path))
}

// Serve runs a driver until the test ends. register adds services and may be nil.
func Serve(t *testing.T, registry *agents.Registry, register func(*grpc.Server)) *Driver {
	t.Helper()
	d := &Driver{Log: &logbuffer.Buffer{}, Endpoint: "unix://" + filepath.Join(t.TempDir(), "csi.sock")}
	logger := Logger(t, d.Log)
	ctx, cancel := context.WithCancel(context.Background())
	ready, result := make(chan struct{}), make(chan error, 1)
	go func() {
		result <- csiserver.Serve(ctx, csiserver.Options{
			Endpoint: d.Endpoint, DriverName: DriverName, Logger: logger, DrainTimeout: 10 * time.Second,
			Listening: func(net.Addr, net.Addr) { close(ready) },
			Register: func(server *grpc.Server) {
				csi.RegisterIdentityServer(server, &csiserver.Identity{
					Name: DriverName, Logger: logger,
					Ready: func(context.Context) error { return registry.Ready() },
				})
				csi.RegisterControllerServer(server, driver.New(DriverName, registry, logger))
				if register != nil {
					register(server)
				}
			},
		})
	}()
	select {
	case <-ready:
	case err := <-result:
		cancel()
		t.Fatalf("the driver ended at once: %v", err)
	}
	conn, err := grpc.NewClient(d.Endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	assert.NilError(t, err)
	d.ClientConn = conn
	t.Cleanup(func() {
		assert.NilError(t, conn.Close())
		cancel()
		assert.NilError(t, <-result)
	})
	return d
}
