package driver_test

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/fakeagent"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

func body(text string) io.ReadCloser { return io.NopCloser(strings.NewReader(text)) }

// gate blocks the matching requests until it is opened.
type gate struct {
	entered, open chan struct{}
	once          sync.Once
}

func newGate() *gate { return &gate{entered: make(chan struct{}, 100), open: make(chan struct{})} }

func (g *gate) prepare(match func(*http.Request) bool) func(*fakeagent.Agent) {
	return func(a *fakeagent.Agent) {
		a.Intercept = func(_ http.ResponseWriter, r *http.Request) bool {
			if match(r) {
				g.entered <- struct{}{}
				<-g.open
			}
			return false
		}
	}
}

func (g *gate) release() { g.once.Do(func() { close(g.open) }) }

func exporting(r *http.Request) bool {
	return r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/export")
}

func TestASecondCallForAVolumeIsAborted(t *testing.T) {
	g := newGate()
	e := start(t, g.prepare(func(r *http.Request) bool {
		return r.Method == http.MethodDelete && strings.HasPrefix(r.URL.Path, "/v1/volumes/pvc-1")
	}))
	defer g.release()
	e.create(t, "pvc-1")
	first := make(chan error, 1)
	go func() {
		_, err := e.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: "fast|pvc-1"})
		first <- err
	}()
	<-g.entered
	for name, call := range map[string]func() error{
		"delete": func() error {
			_, err := e.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: "fast|pvc-1"})
			return err
		},
		"create": func() error { _, err := e.CreateVolume(t.Context(), createRequest("pvc-1", nil)); return err },
		"expand": func() error {
			_, err := e.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{VolumeId: "fast|pvc-1", CapacityRange: &csi.CapacityRange{}})
			return err
		},
		"modify": func() error {
			_, err := e.ControllerModifyVolume(t.Context(), &csi.ControllerModifyVolumeRequest{VolumeId: "fast|pvc-1", MutableParameters: map[string]string{"uid": "7"}})
			return err
		},
		"publish": func() error {
			_, err := e.ControllerPublishVolume(t.Context(), publishRequest("fast|pvc-1", node1, manyWriters))
			return err
		},
		"unpublish": func() error {
			_, err := e.ControllerUnpublishVolume(t.Context(), &csi.ControllerUnpublishVolumeRequest{VolumeId: "fast|pvc-1"})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) { failed(t, call(), codes.Aborted, "pvc-1") })
	}
	e.create(t, "pvc-2") // another volume is not blocked
	_, err := e.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: "fast|pvc-1"})
	assert.NilError(t, err, "nor is reading")
	g.release()
	assert.NilError(t, <-first)
	e.create(t, "pvc-1") // the lock is free again
}

func TestManyNodesAreServedSideBySide(t *testing.T) {
	g := newGate()
	e := start(t, g.prepare(exporting))
	defer g.release()
	e.create(t, "pvc-1")
	results := make(chan error, 2)
	for _, node := range []string{node1, node2} {
		go func() {
			_, err := e.ControllerPublishVolume(t.Context(), publishRequest("fast|pvc-1", node, manyWriters))
			results <- err
		}()
	}
	<-g.entered
	<-g.entered // both are at the agent at the same time
	_, err := e.ControllerPublishVolume(t.Context(), publishRequest("fast|pvc-1", node1, manyWriters))
	failed(t, err, codes.Aborted)
	_, err = e.ControllerPublishVolume(t.Context(), publishRequest("fast|pvc-1", "worker-3|192.0.2.3", oneNode))
	failed(t, err, codes.Aborted)
	g.release()
	assert.NilError(t, <-results)
	assert.NilError(t, <-results)
}

// Another replica of the controller publishes the volume between this replica's check and its
// export.
func TestASingleNodeVolumeIsNeverLeftAtTwoNodes(t *testing.T) {
	e := start(t, func(a *fakeagent.Agent) {
		a.Intercept = func(_ http.ResponseWriter, r *http.Request) bool {
			if exporting(r) {
				a.Edit(token, "pvc-1", func(v *agentapi.VolumeDetail) {
					v.Clients = append(v.Clients, agentapi.ExportEntry{
						Name: "pvc-1", Client: "192.0.2.2", Labels: agentapi.Labels{"node": "worker-2", "access-mode": "single-node-writer"},
					})
				})
			}
			return false
		}
	})
	e.create(t, "pvc-1")
	_, err := e.ControllerPublishVolume(t.Context(), publishRequest("fast|pvc-1", node1, oneNode))
	failed(t, err, codes.Aborted, "worker-2")
	left := e.agent.Volume(token, "pvc-1").Clients
	assert.Equal(t, len(left), 1)
	assert.Equal(t, left[0].Client, "192.0.2.2")
}
