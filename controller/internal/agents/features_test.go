package agents

import (
	"testing"

	"google.golang.org/grpc/codes"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/fakeagent"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
)

// A call that needs a feature which an older agent lacks fails without a request for it. The error
// names the agent to upgrade. After the upgrade the call works, and the client does not ask the
// agent for its features again.
func TestOlderAgentIsNotAskedForWhatItDoesNotKnow(t *testing.T) {
	fake := fakeagent.New(map[string]string{"token": "tenant"})
	fake.Features = nil // 57e475d
	url := fake.Start()
	t.Cleanup(fake.Close)
	clients := agentclient.NewPool(agentclient.Options{NameAgent: true})
	t.Cleanup(clients.Close)
	token := "token"
	require := func() error {
		client, err := clients.Get(url, token, nil)
		assert.NilError(t, err)
		return client.Require(t.Context(), agentapi.NewerField{Name: "compression", Feature: agentapi.FeatureCloneProperties})
	}
	for range 2 {
		err := require()
		assert.Equal(t, agentapi.GRPCCode(err), codes.FailedPrecondition)
		assert.ErrorContains(t, err, "agent "+url+": upgrade the agent")
		assert.ErrorContains(t, err, "compression")
	}
	asked := len(fake.Requests())
	assert.Equal(t, asked, 2)

	fake.SetFeatures(agentapi.FeatureVolumeID, agentapi.FeatureCloneProperties)
	for range 3 {
		assert.NilError(t, require())
	}
	assert.Equal(t, len(fake.Requests()), asked+1)
	for _, r := range fake.Requests() {
		assert.Equal(t, r.Path, "/healthz")
	}

	fake.Close()
	token = "another token"
	assert.Equal(t, agentapi.GRPCCode(require()), codes.Unavailable)
}
