// Package controllertest is the behaviour suite of the controller for any agent. The controller's
// own tests run it against an agent in memory, and the lab runs it against the real agent.
package controllertest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
)

// Backend provides the environment of the suite. What it starts ends with the test.
type Backend interface {
	// Agent starts an agent with these tenants (token to name) and returns its URL. The agent has an
	// empty pool of at least 8 GiB and less than 1 PiB.
	Agent(t *testing.T, tenants map[string]string) string
	// Controller starts a controller named btrfs-nfs-csi with these static classes, without
	// Kubernetes.
	Controller(t *testing.T, classes []Class) grpc.ClientConnInterface
}

// Class is an entry of the classes file, in its format.
type Class struct {
	Name       string            `json:"name"`
	Parameters map[string]string `json:"parameters"`
	Token      string            `json:"token,omitempty"`
}

// Run runs all behaviours.
func Run(t *testing.T, b Backend) {
	for _, group := range []struct {
		name  string
		tests []behaviour
	}{
		{"create", createTests}, {"copy", copyTests}, {"publish", publishTests}, {"snapshot", snapshotTests},
		{"list", listTests}, {"modify", modifyTests}, {"caching", cachingTests}, {"health", healthTests}, {"classes", classTests}, {"expand", expandTests}, {"bad input", badInputTests},
	} {
		t.Run(group.name, func(t *testing.T) {
			for _, test := range group.tests {
				t.Run(test.name, func(t *testing.T) { test.run(t, b) })
			}
		})
	}
}

type behaviour struct {
	name string
	run  func(t *testing.T, b Backend)
}

const (
	mib = 1 << 20
	gib = 1 << 30
	pib = 1 << 50 // more than the pool of any test

	className = "fast"
	token     = "token-of-the-first-tenant"
	token2    = "token-of-the-second-tenant"

	node1 = "worker-1|192.0.2.1"
	node2 = "worker-2|192.0.2.2"
)

// testEnv is a controller with one class, "fast", and its agent.
type testEnv struct {
	*testing.T
	csi.ControllerClient
	url   string
	agent *agentclient.Client // a client with the tenant's token
	ctx   context.Context
}

func start(t *testing.T, b Backend) *testEnv {
	t.Helper()
	url := b.Agent(t, map[string]string{token: "one", token2: "two"})
	return startWith(t, b, url, []Class{{Name: className, Token: token, Parameters: map[string]string{"agentURL": url}}})
}

func startWith(t *testing.T, b Backend, url string, classes []Class) *testEnv {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return &testEnv{T: t, ControllerClient: csi.NewControllerClient(b.Controller(t, classes)), url: url, agent: agentFor(t, url, token), ctx: ctx}
}

func agentFor(t *testing.T, url, token string) *agentclient.Client {
	t.Helper()
	client, err := agentclient.New(url, agentclient.Options{Token: token})
	assert.NilError(t, err)
	t.Cleanup(client.Close)
	return client
}

func capability(mode csi.VolumeCapability_AccessMode_Mode) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
	}
}

const (
	manyWriters = csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	oneNode     = csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
)

// request returns a valid CreateVolumeRequest for the class.
func request(name string, size int64) *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{
		Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: size},
		VolumeCapabilities: []*csi.VolumeCapability{capability(manyWriters)},
		Parameters:         map[string]string{"storageClassName": className},
	}
}

func (e *testEnv) create(r *csi.CreateVolumeRequest) *csi.Volume {
	e.Helper()
	answer, err := e.CreateVolume(e.ctx, r)
	assert.NilError(e, err)
	return answer.Volume
}

func (e *testEnv) volume(name string) *csi.Volume {
	e.Helper()
	return e.create(request(name, gib))
}

func (e *testEnv) snapshot(volumeID, name string) *csi.Snapshot {
	e.Helper()
	answer, err := e.CreateSnapshot(e.ctx, &csi.CreateSnapshotRequest{SourceVolumeId: volumeID, Name: name})
	assert.NilError(e, err)
	return answer.Snapshot
}

func (e *testEnv) publishAs(volumeID, node string, mode csi.VolumeCapability_AccessMode_Mode, readOnly bool) (map[string]string, error) {
	answer, err := e.ControllerPublishVolume(e.ctx, &csi.ControllerPublishVolumeRequest{
		VolumeId: volumeID, NodeId: node, VolumeCapability: capability(mode), Readonly: readOnly,
	})
	return answer.GetPublishContext(), err
}

func (e *testEnv) publish(volumeID, node string, mode csi.VolumeCapability_AccessMode_Mode) map[string]string {
	e.Helper()
	context, err := e.publishAs(volumeID, node, mode, false)
	assert.NilError(e, err)
	return context
}

func (e *testEnv) unpublish(volumeID, node string) {
	e.Helper()
	_, err := e.ControllerUnpublishVolume(e.ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: volumeID, NodeId: node})
	assert.NilError(e, err)
}

func (e *testEnv) delete(volumeID string) {
	e.Helper()
	_, err := e.DeleteVolume(e.ctx, &csi.DeleteVolumeRequest{VolumeId: volumeID})
	assert.NilError(e, err)
}

// clients returns the addresses that the agent exports the volume to.
func (e *testEnv) clients(volumeID string) []string {
	e.Helper()
	clients := e.stored(volumeID).Clients
	out := make([]string, 0, len(clients))
	for _, client := range clients {
		out = append(out, client.Client)
	}
	return out
}

// stored returns the volume as the agent has it.
func (e *testEnv) stored(volumeID string) *agentapi.VolumeDetail {
	e.Helper()
	_, name, _ := strings.Cut(volumeID, "|")
	volume, err := e.agent.GetVolume(e.ctx, name)
	assert.NilError(e, err)
	return volume
}

// failed checks code and message of an error.
func failed(t *testing.T, err error, code codes.Code, parts ...string) {
	t.Helper()
	assert.Equal(t, status.Code(err), code, "error: %v", err)
	for _, part := range parts {
		assert.Assert(t, cmp.Contains(status.Convert(err).Message(), part))
	}
}

func numbered(prefix string, i int) string { return fmt.Sprintf("%s-%03d", prefix, i) }
