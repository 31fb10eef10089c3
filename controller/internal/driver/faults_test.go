package driver_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/agents"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/controllertest"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/fakeagent"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/testenv"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// on answers requests of one method and path instead of the agent.
func on(method, path string, answer func(w http.ResponseWriter, r *http.Request) bool) func(*fakeagent.Agent) {
	return func(a *fakeagent.Agent) {
		a.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
			return r.Method == method && r.URL.Path == path && answer(w, r)
		}
	}
}

func failWith(code agentapi.Code) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		fakeagent.Fail(w, agentapi.Errorf(code, "as the test wants it"))
		return true
	}
}

// The peer returned 409 forever after an interrupted create, and reported success with an empty
// path.
func TestFault04ConflictWithoutAVolumeIsNoSuccess(t *testing.T) {
	e := start(t, on("POST", "/v1/volumes", failWith(agentapi.AlreadyExists)))
	_, err := e.CreateVolume(t.Context(), createRequest("pvc-1", nil))
	failed(t, err, codes.Aborted, "pvc-1")

	snapshots := start(t, on("POST", "/v1/snapshots", failWith(agentapi.AlreadyExists)))
	volume := snapshots.create(t, "pvc-1")
	_, err = snapshots.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{SourceVolumeId: volume.VolumeId, Name: "snap-1"})
	failed(t, err, codes.Aborted, "snap-1")
}

func TestFault04ConflictWithAFittingVolumeIsSuccess(t *testing.T) {
	e := start(t, nil)
	want := e.create(t, "pvc-1")
	e.agent.Edit(token, "pvc-1", func(v *agentapi.VolumeDetail) { v.Uid = 7 }) // the agent now sees a difference in a property that was not requested
	assert.Equal(t, e.create(t, "pvc-1").VolumeId, want.VolumeId)
}

// The peer only logged a warning when the resize after a clone failed, and reported the larger
// size. Here the agent creates a copy in its full size.
func TestFault16ASmallerCopyIsAnError(t *testing.T) {
	e := start(t, on("POST", "/v1/clones", func(_ http.ResponseWriter, r *http.Request) bool {
		r.Body = body(`{"snapshot":"snap","name":"copy"}`) // an agent that ignores the size
		return false
	}))
	r := copyOf(t, e, "copy", nil)
	r.CapacityRange.RequiredBytes = 2 * gib
	_, err := e.CreateVolume(t.Context(), r)
	failed(t, err, codes.AlreadyExists, "bytes")
}

func TestAgentErrorsHaveTheirCodesAndNameTheAgent(t *testing.T) {
	for code, want := range map[agentapi.Code]codes.Code{
		agentapi.Invalid: codes.InvalidArgument, agentapi.Unauthorized: codes.Unauthenticated, agentapi.Forbidden: codes.PermissionDenied,
		agentapi.NoSpace: codes.ResourceExhausted, agentapi.InternalError: codes.Unavailable, agentapi.Unavailable: codes.Unavailable,
		agentapi.RateLimited: codes.Unavailable, agentapi.MetadataError: codes.Unavailable,
	} {
		t.Run(string(code), func(t *testing.T) {
			e := start(t, on("POST", "/v1/volumes", failWith(code)))
			_, err := e.CreateVolume(t.Context(), createRequest("pvc-1", nil))
			failed(t, err, want, e.url)
		})
	}
}

func TestAForeignServerIsNoAgent(t *testing.T) {
	for name, write := range map[string]func(http.ResponseWriter){
		"HTML": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write([]byte("<html>"))
		},
		"garbage": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(`{"volumes":`))
		},
		"redirect": func(w http.ResponseWriter) {
			w.Header().Set("Location", "http://example.com")
			w.WriteHeader(http.StatusFound)
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := start(t, on("POST", "/v1/volumes", func(w http.ResponseWriter, _ *http.Request) bool { write(w); return true }))
			_, err := e.CreateVolume(t.Context(), createRequest("pvc-1", nil))
			failed(t, err, codes.Unavailable, e.url)
		})
	}
}

func TestASlowAgentIsGivenUpInTime(t *testing.T) {
	e := start(t, on("POST", "/v1/volumes", func(_ http.ResponseWriter, r *http.Request) bool {
		_, _ = io.Copy(io.Discard, r.Body) // only then does the server notice that the client is gone
		<-r.Context().Done()
		return true
	}))
	err := within(t, 20*time.Second, func(ctx context.Context) error {
		_, err := e.CreateVolume(ctx, createRequest("pvc-1", nil))
		return err
	})
	failed(t, err, codes.DeadlineExceeded, e.url) // the driver's own limit

	err = within(t, 5*time.Second, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		_, err := e.CreateVolume(ctx, createRequest("pvc-2", nil))
		return err
	})
	failed(t, err, codes.DeadlineExceeded) // the caller's limit
}

// An incomplete list would mean that the volumes of the unreachable agent are deleted.
func TestAListNeverLacksTheVolumesOfAnAgentThatIsDown(t *testing.T) {
	_, up := startAgent(t, nil)
	downURL := refusing(t)
	static, _ := testenv.Static(t, []controllertest.Class{
		{Name: "a", Token: token, Parameters: map[string]string{"agentURL": up}},
		{Name: "b", Token: token, Parameters: map[string]string{"agentURL": downURL}},
	})
	e := serve(t, agents.NewRegistry(nil, static, testenv.Clients(t, testenv.AgentTimeout)), nil, up)
	_, err := e.CreateVolume(t.Context(), createRequest("pvc-1", map[string]string{"storageClassName": "a"}))
	assert.NilError(t, err, "the other agent's volumes are not affected")
	_, err = e.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
	failed(t, err, codes.Unavailable, downURL)
	_, err = e.ListSnapshots(t.Context(), &csi.ListSnapshotsRequest{})
	failed(t, err, codes.Unavailable, downURL)
	_, err = e.GetCapacity(t.Context(), &csi.GetCapacityRequest{})
	failed(t, err, codes.Unavailable, downURL)
	_, err = e.GetCapacity(t.Context(), &csi.GetCapacityRequest{Parameters: map[string]string{"storageClassName": "a"}})
	assert.NilError(t, err)
	_, err = e.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: "b|pvc-1"})
	failed(t, err, codes.Unavailable, downURL)
}

func TestTheRequestIDReachesTheAgentAndSecretsNeverTheLog(t *testing.T) {
	e := start(t, nil)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-request-id", "req-42")
	r := createRequest("pvc-1", nil)
	r.Secrets = map[string]string{"agentToken": token}
	_, err := e.CreateVolume(ctx, r)
	assert.NilError(t, err)
	published, err := e.ControllerPublishVolume(ctx, publishRequest("fast|pvc-1", node1, manyWriters))
	assert.NilError(t, err)
	r.Secrets["agentToken"] = "another-secret-token"
	_, err = e.CreateVolume(ctx, r)
	failed(t, err, codes.Unauthenticated)
	for _, request := range e.agent.Requests() {
		assert.Equal(t, request.RequestID, "req-42")
	}
	for _, part := range []string{"req-42", "CreateVolume", "fast|pvc-1", "worker-1|192.0.2.1", "Unauthenticated", "duration"} {
		assert.Assert(t, cmp.Contains(e.log.String(), part))
	}
	noSecrets(t, e.log, token, "another-secret-token", published.PublishContext["usageToken"])
	assert.Assert(t, !strings.Contains(err.Error(), "secret-token"))
}
