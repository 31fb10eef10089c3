package driver_test

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/agents"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/controllertest"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/fakeagent"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/testenv"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// The capacity of a tenant is what its limits leave. The tenants of one agent together have at most
// the free space.
func TestCapacityUnderLimits(t *testing.T) {
	const free = 1 << 40
	agent := fakeagent.New(map[string]string{"token-a": "a", "token-b": "b"})
	agent.SetFree(free)
	url := agent.Start()
	t.Cleanup(agent.Close)
	classes := []controllertest.Class{}
	for _, name := range []string{"a", "b"} {
		classes = append(classes, controllertest.Class{Name: name, Token: "token-" + name, Parameters: map[string]string{"agentURL": url}})
	}
	static, _ := testenv.Static(t, classes)
	e := serve(t, agents.NewRegistry(nil, static, testenv.Clients(t, testenv.AgentTimeout)), nil, url)
	for name, test := range map[string]struct {
		a, b               agentapi.TenantLimits
		ofA, ofB, together int64
	}{
		"none":                {ofA: free, ofB: free, together: free},
		"room left":           {a: agentapi.TenantLimits{MaxSizeBytes: 10 << 30, SizeBytes: 4 << 30}, ofA: 6 << 30, ofB: free, together: free},
		"both have some":      {agentapi.TenantLimits{MaxSizeBytes: 3 << 30}, agentapi.TenantLimits{MaxSizeBytes: 4 << 30}, 3 << 30, 4 << 30, 7 << 30},
		"more than is free":   {a: agentapi.TenantLimits{MaxSizeBytes: 1 << 62}, ofA: free, ofB: free, together: free},
		"lowered below use":   {agentapi.TenantLimits{MaxSizeBytes: 1, SizeBytes: 2}, agentapi.TenantLimits{MaxSizeBytes: 1, SizeBytes: 1}, 0, 0, 0},
		"no volume more":      {agentapi.TenantLimits{MaxVolumes: 2, Volumes: 2}, agentapi.TenantLimits{MaxVolumes: 2, Volumes: 3, MaxSizeBytes: 9}, 0, 0, 0},
		"some volumes more":   {agentapi.TenantLimits{MaxVolumes: 2, Volumes: 1}, agentapi.TenantLimits{MaxVolumes: 1}, free, free, free},
		"size counts as well": {a: agentapi.TenantLimits{MaxVolumes: 2, Volumes: 1, MaxSizeBytes: 9, SizeBytes: 4}, ofA: 5, ofB: free, together: free},
	} {
		agent.SetLimits("token-a", test.a)
		agent.SetLimits("token-b", test.b)
		for _, ask := range []struct {
			parameters map[string]string
			want       int64
		}{
			{map[string]string{"storageClassName": "a"}, test.ofA}, {map[string]string{"storageClassName": "b"}, test.ofB},
			{map[string]string{"agentURL": url}, test.together}, {nil, test.together},
		} {
			answer, err := e.GetCapacity(t.Context(), &csi.GetCapacityRequest{Parameters: ask.parameters})
			assert.NilError(t, err)
			assert.Equal(t, answer.AvailableCapacity, ask.want, "%s: %v", name, ask.parameters)
		}
	}
}
