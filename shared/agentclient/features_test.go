package agentclient

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// VolumeClone is a request with a field that an agent of 57e475d does not know.
type VolumeClone struct {
	Source      string `json:"source"`
	Name        string `json:"name"`
	Compression string `json:"compression,omitempty"`
}

// agentOf is an agent with features. It answers clone requests with a status.
type agentOf struct {
	features []string
	health   int // status of the health answer; 0 means 200
	refuse   bool
	asked    int // number of health requests
	cloned   int
}

func (a *agentOf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	var answer any = agentapi.VolumeDetail{}
	status := http.StatusOK
	switch {
	case r.URL.Path == "/healthz":
		a.asked++
		status = max(a.health, http.StatusOK)
		answer = agentapi.Health{Status: agentapi.StatusOK, Version: "v1", Features: a.features}
	case a.refuse:
		status = http.StatusBadRequest
		answer = agentapi.ErrorBody{Code: agentapi.BadRequest, Error: `field "compression" is not known here`}
	default:
		a.cloned++
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer)
}

func clone(c *Client, r VolumeClone) error {
	_, err := send[agentapi.VolumeDetail](context.Background(), c, "CloneVolume", r, func(ctx context.Context) (*http.Response, error) {
		return c.wire.CloneVolume(ctx, agentapi.VolumeClone{Source: r.Source, Name: r.Name})
	})
	return err
}

func TestFeatures(t *testing.T) {
	agent := &agentOf{}
	c := clientOf(t, agent.ServeHTTP, Options{})
	plain, newer := VolumeClone{Source: "v", Name: "c"}, VolumeClone{Source: "v", Name: "c", Compression: "zstd"}
	is := func(asked, cloned int) {
		t.Helper()
		assert.Equal(t, agent.asked, asked)
		assert.Equal(t, agent.cloned, cloned)
	}

	// A request that every agent knows needs no health request.
	assert.NilError(t, clone(c, plain))
	is(0, 1)

	err := clone(c, newer)
	assert.Assert(t, agentapi.IsCode(err, agentapi.Unsupported), "%v", err)
	assert.ErrorContains(t, err, `upgrade the agent: version "v1" does not know the field compression (feature clone-properties)`)
	is(1, 1)

	// The agent is upgraded.
	agent.features = []string{"volume-id", "clone-properties", "what comes later"}
	assert.NilError(t, clone(c, newer))
	assert.NilError(t, clone(c, newer))
	is(2, 3)

	// The older agent is back, and refuses.
	agent.features, agent.refuse = nil, true
	assert.Assert(t, agentapi.IsCode(clone(c, newer), agentapi.Unsupported))
	is(3, 3)
	assert.Assert(t, agentapi.IsCode(clone(c, newer), agentapi.Unsupported))
	is(4, 3)

	// A refusal for another reason keeps its error.
	agent.features = []string{"clone-properties"}
	assert.Assert(t, agentapi.IsCode(clone(c, newer), agentapi.BadRequest))
	assert.Assert(t, agentapi.IsCode(clone(c, plain), agentapi.BadRequest))

	// A failed health answer says nothing about the source.
	agent.health, agent.features = http.StatusNotFound, nil
	c = clientOf(t, agent.ServeHTTP, Options{})
	assert.Assert(t, agentapi.IsCode(clone(c, newer), agentapi.Unavailable))
}
