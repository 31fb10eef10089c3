package driver_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"gotest.tools/v3/assert"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/agents"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/controllertest"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/fakeagent"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/testenv"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
)

func sick(conditions ...agentapi.Condition) func(*agentapi.VolumeDetail) {
	return func(v *agentapi.VolumeDetail) {
		v.Health = &agentapi.VolumeHealth{Status: agentapi.StatusDegraded, Conditions: conditions}
	}
}

// A quarantined volume may have clients that the agent cannot name. Unpublish fails as long as the
// agent reports that.
func TestUnpublishOfAQuarantinedVolume(t *testing.T) {
	d := start(t, nil)
	volume := d.create(t, "sick").VolumeId
	d.agent.Edit(token, "sick", sick(agentapi.Condition{Reason: agentapi.ReasonQuarantined, Message: "a reference cannot be read"}))
	for node, code := range map[string]codes.Code{"node-1|10.0.0.1": codes.FailedPrecondition, "node-1": codes.FailedPrecondition, "": codes.FailedPrecondition} {
		_, err := d.ControllerUnpublishVolume(t.Context(), &csi.ControllerUnpublishVolumeRequest{VolumeId: volume, NodeId: node})
		assert.Equal(t, status.Code(err), code, "%s: %v", node, err)
	}
}

// Every unpublish from a node with an address ends with the agent's answer to an unexport. This
// holds even if the agent has no reference of the node, or does not know the volume. While the
// agent cannot fence the node, the unpublish fails.
func TestUnpublishEndsWithAFence(t *testing.T) {
	var broken atomic.Bool
	requests := make(chan string, 10)
	d := start(t, func(a *fakeagent.Agent) {
		a.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodDelete {
				return false
			}
			body, err := io.ReadAll(r.Body)
			assert.Check(t, err)
			r.Body = io.NopCloser(bytes.NewReader(body))
			requests <- r.URL.Path + " " + string(body)
			return broken.Load() && failWith(agentapi.Unavailable)(w, r)
		}
	})
	unpublish := func(name, node string) error {
		_, err := d.ControllerUnpublishVolume(t.Context(), &csi.ControllerUnpublishVolumeRequest{VolumeId: "fast|" + name, NodeId: node})
		return err
	}
	d.create(t, "there")
	for _, name := range []string{"there", "gone"} {
		fence := "/v1/volumes/" + name + `/export {"client":"192.0.2.1","labels":{"node":"worker-1"}}`
		broken.Store(true)
		failed(t, unpublish(name, node1), codes.Unavailable)
		broken.Store(false)
		for range 2 {
			assert.NilError(t, unpublish(name, node1))
		}
		for range 3 {
			assert.Equal(t, <-requests, fence)
		}
		for _, node := range []string{"", "worker-1"} {
			assert.NilError(t, unpublish(name, node), "there is no address to shut out")
		}
		assert.Equal(t, len(requests), 0)
	}

	_, err := d.ControllerPublishVolume(t.Context(), publishRequest("fast|there", node1, oneNode))
	assert.NilError(t, err)
	assert.NilError(t, unpublish("there", node1))
	assert.Equal(t, len(requests), 1, "one is enough")
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
		agentapi.Condition{Reason: agentapi.ReasonQuarantined, Message: "its clients go on"},
		agentapi.Condition{Reason: "OfANewerAgent", Message: "what is this"},
	))
	want := []string{
		"DEGRADED DeviceMissing device 1 is missing; device 2 is missing",
		"DATA_LOSS ScrubUncorrectable damaged",
		"INACCESSIBLE ExportMissing one client",
		"DEGRADED Quarantined its clients go on",
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
	next := ""
	for range 1000 {
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
	t.Fatal("the list has no end")
	return nil
}

func TestAgentThatCannotBeReachedIsACondition(t *testing.T) {
	d := start(t, nil)
	volume := d.create(t, "pvc-1").VolumeId
	d.agent.Close()
	hold(t, netip.MustParseAddrPort(strings.TrimPrefix(d.url, "http://")))
	begin := time.Now()
	answer, err := d.ControllerGetVolumeHealth(t.Context(), &csi.ControllerGetVolumeHealthRequest{VolumeId: volume})
	assert.NilError(t, err)
	assert.Equal(t, len(answer.VolumeHealth.HealthStatuses), 1)
	status := answer.VolumeHealth.HealthStatuses[0]
	assert.Equal(t, status.Reason, "AgentUnreachable")
	assert.Equal(t, status.Status, csi.VolumeHealthErrorType_DEGRADED, "the host refuses the connection, so it lives")
	assert.Assert(t, time.Since(begin) < 10*time.Second)
	_, err = d.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{})
	failed(t, err, codes.Unavailable) // the volumes are unknown
}

// Kubernetes knows the volumes of an agent that does not answer. The list contains them together
// with those of the agents that answer.
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
	hold(t, netip.MustParseAddrPort(strings.TrimPrefix(goneURL, "http://")))
	for _, size := range []int32{0, 1, 2, 3, 6, 100} {
		assert.DeepEqual(t, listHealth(t, k, size), want)
	}
}

// A caller with a deadline shorter than the timeout of a call to an agent also gets the condition
// of a silent agent.
func TestASilentAgentIsAConditionForAHurriedCaller(t *testing.T) {
	agent, url := startAgent(t, func(a *fakeagent.Agent) { a.Intercept = silent })
	static, _ := testenv.Static(t, []controllertest.Class{{Name: "fast", Token: token, Parameters: map[string]string{"agentURL": url}}})
	clients := agentclient.NewPool(agentclient.Options{NameAgent: true})
	t.Cleanup(clients.Close)
	d := serve(t, agents.NewRegistry(nil, static, clients), agent, url)
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
	defer cancel()
	answer, err := d.ControllerGetVolumeHealth(ctx, &csi.ControllerGetVolumeHealthRequest{VolumeId: "fast|pvc-1"})
	assert.NilError(t, err)
	assert.Equal(t, answer.VolumeHealth.HealthStatuses[0].Reason, "AgentUnreachable")
	assert.Equal(t, answer.VolumeHealth.HealthStatuses[0].Status, csi.VolumeHealthErrorType_INACCESSIBLE)
}

func silent(_ http.ResponseWriter, r *http.Request) bool {
	<-r.Context().Done()
	return true
}

// The list has each volume of a silent agent once, whatever its tenant. The driver waits for the
// agent once.
func TestTenantsOfASilentAgentAreListedOnce(t *testing.T) {
	agent, url := startAgent(t, func(a *fakeagent.Agent) { a.Intercept = silent })
	k, want := twoTenants(t, agent, url)
	answer, err := k.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{})
	assert.NilError(t, err)
	assert.DeepEqual(t, sickOf(answer), want)
	assert.Equal(t, len(agent.Requests()), 1)
	for _, size := range []int32{1, 2, 3} {
		got := listHealth(t, k, size)
		slices.Sort(got)
		assert.DeepEqual(t, got, want)
	}
}

func sickOf(answer *csi.ControllerListVolumeHealthResponse) []string {
	out := []string{}
	for _, entry := range answer.Entries {
		out = append(out, entry.VolumeId)
	}
	slices.Sort(out) // the order of tenants is that of their hashes
	return out
}

// An agent that fails in the middle of its list loses the position of the list.
func TestAnAgentThatGoesInTheMiddleOfItsListAbortsIt(t *testing.T) {
	agent, url := startAgent(t, nil)
	fast := storageClass("fast", url, nil)
	objects := []runtime.Object{fast, secret("kube-system", "agent", token)}
	for i := range 3 {
		name := fmt.Sprint("pvc-", i)
		volumeAt(t, url, token, name)
		agent.Edit(token, name, sick(agentapi.Condition{Reason: agentapi.ReasonVolumeFull}))
		objects = append(objects, persistentVolume(&csi.Volume{VolumeId: "fast|" + name}, "pv-"+name, "team", nil))
	}
	k := startKube(t, agent, url, nil, objects...)
	k.waitReady(t)
	page, err := k.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{MaxEntries: 1})
	assert.NilError(t, err)
	agent.Close()
	hold(t, netip.MustParseAddrPort(strings.TrimPrefix(url, "http://")))
	_, err = k.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{MaxEntries: 1, StartingToken: page.NextToken})
	failed(t, err, codes.Aborted, "from the start")
}

// An agent that comes back in the middle of the cluster's list of its volumes does not fail the
// call.
func TestAnAgentThatComesBackInTheMiddleIsListedToTheEnd(t *testing.T) {
	var asked atomic.Bool
	agent, url := startAgent(t, func(a *fakeagent.Agent) {
		a.Intercept = func(w http.ResponseWriter, _ *http.Request) bool {
			return !asked.Swap(true) && failWith(agentapi.Unavailable)(w, nil)
		}
	})
	objects, want := []runtime.Object{storageClass("fast", url, nil), secret("kube-system", "agent", token)}, []string{}
	for i := range 450 { // more than one page
		want = append(want, fmt.Sprintf("fast|pvc-%03d", i))
		objects = append(objects, persistentVolume(&csi.Volume{VolumeId: want[i]}, fmt.Sprint("pv-", i), "team", nil))
	}
	k := startKube(t, agent, url, nil, objects...)
	k.waitReady(t)
	answer, err := k.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{})
	assert.NilError(t, err)
	assert.DeepEqual(t, sickOf(answer), want)
}
