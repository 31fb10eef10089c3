package driver_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/agents"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/controllertest"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/fakeagent"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/testenv"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/test/logbuffer"
)

const (
	mib   = 1 << 20
	gib   = 1 << 30
	token = "the-secret-token"

	node1 = "worker-1|192.0.2.1"
	node2 = "worker-2|192.0.2.2"

	manyWriters = csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	oneNode     = csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
)

// testEnv is a driver with an agent in memory.
type testEnv struct {
	csi.ControllerClient
	csi.IdentityClient
	agent *fakeagent.Agent
	url   string
	log   *logbuffer.Buffer
}

// startAgent starts an agent with one tenant. prepare configures the agent before it serves, and
// may be nil.
func startAgent(t *testing.T, prepare func(*fakeagent.Agent)) (*fakeagent.Agent, string) {
	t.Helper()
	agent := fakeagent.New(map[string]string{token: "tenant"})
	if prepare != nil {
		prepare(agent)
	}
	url := agent.Start()
	t.Cleanup(agent.Close)
	return agent, url
}

// start starts a driver with the static class "fast".
func start(t *testing.T, prepare func(*fakeagent.Agent)) *testEnv {
	t.Helper()
	agent, url := startAgent(t, prepare)
	static, _ := testenv.Static(t, []controllertest.Class{{Name: "fast", Token: token, Parameters: map[string]string{"agentURL": url}}})
	return serve(t, agents.NewRegistry(nil, static, testenv.Clients(t, testenv.AgentTimeout)), agent, url)
}

func serve(t *testing.T, registry *agents.Registry, agent *fakeagent.Agent, url string) *testEnv {
	t.Helper()
	driver := testenv.Serve(t, registry, nil)
	return &testEnv{
		ControllerClient: csi.NewControllerClient(driver), IdentityClient: csi.NewIdentityClient(driver),
		agent: agent, url: url, log: driver.Log,
	}
}

func capability(mode csi.VolumeCapability_AccessMode_Mode) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
	}
}

func createRequest(name string, parameters map[string]string) *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{
		Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: gib}, Parameters: parameters,
		VolumeCapabilities: []*csi.VolumeCapability{capability(manyWriters)},
	}
}

func (e *testEnv) create(t *testing.T, name string) *csi.Volume {
	t.Helper()
	answer, err := e.CreateVolume(t.Context(), createRequest(name, nil))
	assert.NilError(t, err)
	return answer.Volume
}

func publishRequest(volumeID, node string, mode csi.VolumeCapability_AccessMode_Mode) *csi.ControllerPublishVolumeRequest {
	return &csi.ControllerPublishVolumeRequest{VolumeId: volumeID, NodeId: node, VolumeCapability: capability(mode)}
}

func failed(t *testing.T, err error, code codes.Code, parts ...string) {
	t.Helper()
	assert.Equal(t, status.Code(err), code, "error: %v", err)
	for _, part := range parts {
		assert.Assert(t, cmp.Contains(status.Convert(err).Message(), part))
	}
}

// eventually waits for an event that an informer has not yet seen.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if err := check(); err != nil {
			return poll.Continue("%v", err)
		}
		return poll.Success()
	}, poll.WithTimeout(time.Minute), poll.WithDelay(5*time.Millisecond))
}

// within fails if a call takes longer than the limit, whatever its result.
func within(t *testing.T, limit time.Duration, call func(ctx context.Context) error) error {
	t.Helper()
	begin := time.Now()
	err := call(t.Context())
	assert.Assert(t, time.Since(begin) < limit, "took %s", time.Since(begin))
	return err
}

func noSecrets(t *testing.T, log *logbuffer.Buffer, secrets ...string) {
	t.Helper()
	for _, secret := range secrets {
		assert.Assert(t, !strings.Contains(log.String(), secret), "%q is in the log", secret)
	}
}
