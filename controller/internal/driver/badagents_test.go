package driver_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/agents"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/controllertest"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/testenv"
)

type errTooMany int

func (e errTooMany) Error() string { return fmt.Sprintf("%d descriptors more than before", int(e)) }

// Every call to an agent that is down, slow, broken, or a different server ends in time and with
// the right code. Neither another agent's volumes nor its list are affected.
func TestAgentsThatFail(t *testing.T) {
	for name, bad := range map[string]struct {
		start func(t *testing.T) (url string)
		codes []codes.Code
		// timeout limits each call. An answer that needs no waiting arrives at once, whatever the
		// timeout.
		timeout time.Duration
	}{
		"down": {refusing, []codes.Code{codes.Unavailable}, testenv.AgentTimeout},
		"slow": {serving(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			select { // a call takes 30 s, or the client's deadline
			case <-r.Context().Done():
			case <-time.After(30 * time.Second):
			}
		}), []codes.Code{codes.DeadlineExceeded}, testenv.SilentAgentTimeout},
		"garbage": {serving(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte("\x00\xff{{{"))
		}), []codes.Code{codes.Internal, codes.Unavailable}, testenv.AgentTimeout},
		"500": {serving(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }), []codes.Code{codes.Internal, codes.Unavailable}, testenv.AgentTimeout},
		"foreign certificate": {func(t *testing.T) string {
			server := httptest.NewUnstartedServer(http.NotFoundHandler())
			server.Config.ErrorLog = log.New(io.Discard, "", 0) // drops the error of each handshake
			server.StartTLS()
			t.Cleanup(server.Close)
			return server.URL
		}, []codes.Code{codes.Unavailable}, testenv.AgentTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			agent, good := startAgent(t, nil)
			_, also := startAgent(t, nil)
			classes := []controllertest.Class{}
			for class, url := range map[string]string{"a": good, "bad": bad.start(t), "c": also} {
				classes = append(classes, controllertest.Class{Name: class, Token: token, Parameters: map[string]string{"agentURL": url}})
			}
			static, _ := testenv.Static(t, classes)
			e := serve(t, agents.NewRegistry(nil, static, testenv.Clients(t, bad.timeout)), agent, good)
			for call, do := range callsOf("bad") {
				err := within(t, 3*testenv.SilentAgentTimeout, func(ctx context.Context) error { return do(ctx, e) })
				assert.Assert(t, slices.Contains(bad.codes, status.Code(err)), "%s: %v", call, err)
				if slices.Contains([]string{"create", "copy", "snapshot", "expand", "modify"}, call) {
					assert.Assert(t, status.Code(err) != codes.Internal, "%s: a sidecar takes %v for not done", call, err)
				}
			}
			health, err := e.ControllerGetVolumeHealth(t.Context(), &csi.ControllerGetVolumeHealthRequest{VolumeId: "bad|pvc-1"})
			if slices.Contains(bad.codes, codes.Internal) { // the agent answers
				failed(t, err, codes.Internal)
			} else {
				assert.NilError(t, err)
				assert.Equal(t, health.VolumeHealth.HealthStatuses[0].Reason, "AgentUnreachable")
			}
			for _, class := range []string{"a", "c"} {
				_, err := e.CreateVolume(t.Context(), createRequest("pvc-"+class, map[string]string{"storageClassName": class}))
				assert.NilError(t, err)
				_, err = e.ControllerPublishVolume(t.Context(), publishRequest(class+"|pvc-"+class, node1, manyWriters))
				assert.NilError(t, err)
				health, err := e.ControllerGetVolumeHealth(t.Context(), &csi.ControllerGetVolumeHealthRequest{VolumeId: class + "|pvc-" + class})
				assert.NilError(t, err)
				assert.Equal(t, len(health.VolumeHealth.HealthStatuses), 0)
			}
		})
	}
}

// refusing returns the URL of an agent that is down. The test holds the port, so that no other
// process listens there.
func refusing(t *testing.T) string {
	return "http://" + hold(t, netip.MustParseAddrPort("127.0.0.1:0"))
}

// hold binds a port and does not listen.
func hold(t *testing.T, address netip.AddrPort) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	assert.NilError(t, err)
	t.Cleanup(func() { assert.NilError(t, syscall.Close(fd)) })
	assert.NilError(t, syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)) // connections of an earlier server may linger
	assert.NilError(t, syscall.Bind(fd, &syscall.SockaddrInet4{Port: int(address.Port()), Addr: address.Addr().As4()}))
	bound, err := syscall.Getsockname(fd)
	assert.NilError(t, err)
	return netip.AddrPortFrom(address.Addr(), uint16(bound.(*syscall.SockaddrInet4).Port)).String()
}

func serving(handler http.HandlerFunc) func(t *testing.T) string {
	return func(t *testing.T) string {
		server := httptest.NewServer(handler)
		t.Cleanup(server.Close)
		return server.URL
	}
}

// callsOf returns every call that needs the agent of a class.
func callsOf(class string) map[string]func(context.Context, *testEnv) error {
	volume := class + "|pvc-1"
	return map[string]func(context.Context, *testEnv) error{
		"create": func(ctx context.Context, e *testEnv) error {
			_, err := e.CreateVolume(ctx, createRequest("pvc-1", map[string]string{"storageClassName": class}))
			return err
		},
		"copy": func(ctx context.Context, e *testEnv) error {
			r := createRequest("copy-1", map[string]string{"storageClassName": class})
			r.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: volume}}}
			_, err := e.CreateVolume(ctx, r)
			return err
		},
		"delete": func(ctx context.Context, e *testEnv) error {
			_, err := e.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: volume})
			return err
		},
		"publish": func(ctx context.Context, e *testEnv) error {
			_, err := e.ControllerPublishVolume(ctx, publishRequest(volume, node1, oneNode))
			return err
		},
		"unpublish": func(ctx context.Context, e *testEnv) error {
			_, err := e.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: volume, NodeId: node1})
			return err
		},
		"snapshot": func(ctx context.Context, e *testEnv) error {
			_, err := e.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{SourceVolumeId: volume, Name: "snap"})
			return err
		},
		"delete snapshot": func(ctx context.Context, e *testEnv) error {
			_, err := e.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: class + "|snap"})
			return err
		},
		"expand": func(ctx context.Context, e *testEnv) error {
			_, err := e.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{VolumeId: volume, CapacityRange: &csi.CapacityRange{RequiredBytes: gib}})
			return err
		},
		"modify": func(ctx context.Context, e *testEnv) error {
			_, err := e.ControllerModifyVolume(ctx, &csi.ControllerModifyVolumeRequest{VolumeId: volume, MutableParameters: map[string]string{"uid": "1"}})
			return err
		},
		"get": func(ctx context.Context, e *testEnv) error {
			_, err := e.ControllerGetVolume(ctx, &csi.ControllerGetVolumeRequest{VolumeId: volume})
			return err
		},
		"get snapshot": func(ctx context.Context, e *testEnv) error {
			_, err := e.GetSnapshot(ctx, &csi.GetSnapshotRequest{SnapshotId: class + "|snap"})
			return err
		},
		"validate": func(ctx context.Context, e *testEnv) error {
			_, err := e.ValidateVolumeCapabilities(ctx, &csi.ValidateVolumeCapabilitiesRequest{VolumeId: volume, VolumeCapabilities: []*csi.VolumeCapability{capability(oneNode)}})
			return err
		},
		"list": func(ctx context.Context, e *testEnv) error {
			_, err := e.ListVolumes(ctx, &csi.ListVolumesRequest{})
			return err
		},
		"list snapshots": func(ctx context.Context, e *testEnv) error {
			_, err := e.ListSnapshots(ctx, &csi.ListSnapshotsRequest{})
			return err
		},
		"list health": func(ctx context.Context, e *testEnv) error {
			_, err := e.ControllerListVolumeHealth(ctx, &csi.ControllerListVolumeHealthRequest{})
			return err
		},
		"capacity": func(ctx context.Context, e *testEnv) error {
			_, err := e.GetCapacity(ctx, &csi.GetCapacityRequest{})
			return err
		},
	}
}
