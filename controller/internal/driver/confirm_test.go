package driver_test

import (
	"maps"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/fakeagent"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// Another replica of the controller publishes to another node between the check and the export. The
// call revokes the reference that it added. It keeps the references that the node had before,
// because they may be in use.
func TestPublishedElsewhereAtTheSameTime(t *testing.T) {
	for _, before := range []bool{false, true} {
		var race atomic.Bool
		e := start(t, func(a *fakeagent.Agent) {
			a.Intercept = func(_ http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/export") && race.Swap(false) {
					a.Edit(token, "pvc-1", func(v *agentapi.VolumeDetail) {
						other := agentapi.ExportEntry{Name: "pvc-1", Client: "192.0.2.2", Labels: agentapi.Labels{"node": "worker-2", "access-mode": "single-node-writer"}}
						v.Clients = append(v.Clients, other)
					})
				}
				return false
			}
		})
		volume := e.create(t, "pvc-1").VolumeId
		want := map[string]bool{"192.0.2.2": true}
		if before {
			_, err := e.ControllerPublishVolume(t.Context(), publishRequest(volume, node1, oneNode))
			assert.NilError(t, err)
			want["192.0.2.1"] = true
		}
		race.Store(true)
		_, err := e.ControllerPublishVolume(t.Context(), publishRequest(volume, node1, oneNode))
		failed(t, err, codes.Aborted, "worker-2")
		got := map[string]bool{}
		for _, client := range e.agent.Volume(token, "pvc-1").Clients {
			got[client.Client] = true
		}
		assert.Assert(t, maps.Equal(got, want), "%v", got)
	}
}
