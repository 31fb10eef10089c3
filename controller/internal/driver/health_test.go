package driver_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"gotest.tools/v3/assert"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

func sick(conditions ...agentapi.Condition) func(*agentapi.VolumeDetail) {
	return func(v *agentapi.VolumeDetail) {
		v.Health = &agentapi.VolumeHealth{Status: agentapi.StatusDegraded, Conditions: conditions}
	}
}

func TestConditionsOfTheAgentBecomeHealth(t *testing.T) {
	d := start(t, nil)
	d.create(t, "well")
	volume := d.create(t, "sick").VolumeId
	d.agent.Edit(token, "sick", sick(
		agentapi.Condition{Reason: agentapi.ReasonDeviceMissing, Message: "device 1 is missing"},
		agentapi.Condition{Reason: agentapi.ReasonDeviceMissing, Message: "device 2 is missing"},
		agentapi.Condition{Reason: agentapi.ReasonScrubUncorrectable, Message: "damaged"},
		agentapi.Condition{Reason: agentapi.ReasonExportMissing, Message: "one client"},
		agentapi.Condition{Reason: "OfANewerAgent", Message: "what is this"},
	))
	want := []string{
		"DEGRADED DeviceMissing device 1 is missing; device 2 is missing",
		"DATA_LOSS ScrubUncorrectable damaged",
		"INACCESSIBLE ExportMissing one client",
		"DEGRADED OfANewerAgent what is this",
	}
	answer, err := d.ControllerGetVolumeHealth(t.Context(), &csi.ControllerGetVolumeHealthRequest{VolumeId: volume})
	assert.NilError(t, err)
	assert.DeepEqual(t, shown(answer.VolumeHealth), want)
	list, err := d.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{})
	assert.NilError(t, err)
	assert.Equal(t, len(list.Entries), 1)
	assert.Equal(t, list.Entries[0].VolumeId, volume)
	assert.DeepEqual(t, shown(list.Entries[0]), want)
}

func shown(h *csi.VolumeHealth) []string {
	out := []string{}
	for _, s := range h.HealthStatuses {
		out = append(out, fmt.Sprintf("%s %s %s", s.Status, s.Reason, s.Message))
	}
	return out
}

func TestHealthIsListedInPages(t *testing.T) {
	d := start(t, nil)
	want := []string{}
	for i := range 20 {
		name := fmt.Sprintf("pvc-%02d", i)
		volume := d.create(t, name).VolumeId
		if i%3 == 0 {
			d.agent.Edit(token, name, sick(agentapi.Condition{Reason: agentapi.ReasonVolumeFull}))
			want = append(want, volume)
		}
	}
	for _, size := range []int32{0, 1, 2, 3, 100} {
		assert.DeepEqual(t, listHealth(t, d, size), want)
	}
}

func listHealth(t *testing.T, d csi.ControllerClient, size int32) []string {
	t.Helper()
	out := []string{}
	for next := ""; ; {
		page, err := d.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{MaxEntries: size, StartingToken: next})
		assert.NilError(t, err)
		assert.Assert(t, size == 0 || len(page.Entries) <= int(size))
		for _, e := range page.Entries {
			out = append(out, e.VolumeId)
		}
		if next = page.NextToken; next == "" {
			return out
		}
	}
}

func TestAgentThatCannotBeReachedIsACondition(t *testing.T) {
	d := start(t, nil)
	volume := d.create(t, "pvc-1").VolumeId
	d.agent.Close()
	begin := time.Now()
	answer, err := d.ControllerGetVolumeHealth(t.Context(), &csi.ControllerGetVolumeHealthRequest{VolumeId: volume})
	assert.NilError(t, err)
	assert.Equal(t, len(answer.VolumeHealth.HealthStatuses), 1)
	status := answer.VolumeHealth.HealthStatuses[0]
	assert.Equal(t, status.Reason, "AgentUnreachable")
	assert.Equal(t, status.Status, csi.VolumeHealthErrorType_DEGRADED, "the host refuses the connection, so it lives")
	assert.Assert(t, time.Since(begin) < 10*time.Second)
	_, err = d.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{})
	failed(t, err, codes.Unavailable) // nobody knows which volumes there are
}

// Kubernetes knows the volumes of an agent that does not answer: they are listed beside those of the agents that do.
func TestVolumesOfAnAgentThatCannotBeReachedAreListed(t *testing.T) {
	agent, url := startAgent(t, nil)
	gone, goneURL := startAgent(t, nil)
	here, there := storageClass("here", url, nil), storageClass("there", goneURL, nil)
	objects := []runtime.Object{here, there, secret("kube-system", "agent", token)}
	want := []string{"here|sick"}
	for i := range 5 {
		v := &csi.Volume{VolumeId: fmt.Sprintf("there|pvc-%d", i), VolumeContext: map[string]string{"agentURL": goneURL}}
		objects = append(objects, persistentVolume(v, fmt.Sprintf("pv-%d", i), "team", nil))
		want = append(want, v.VolumeId)
	}
	objects = append(objects, persistentVolume(&csi.Volume{VolumeId: "here|well", VolumeContext: map[string]string{"agentURL": url}}, "pv-well", "team", nil),
		claim("team", "data", "here", nil))
	k := startKube(t, agent, url, nil, objects...)
	k.waitReady(t)
	k.createFor(t, "well", here, "team", "data")
	k.createFor(t, "sick", here, "team", "data")
	agent.Edit(token, "sick", sick(agentapi.Condition{Reason: agentapi.ReasonVolumeFull}))
	gone.Close()
	for _, size := range []int32{0, 1, 2, 3, 6, 100} {
		assert.DeepEqual(t, listHealth(t, k, size), want)
	}
}
