package csiserver_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
)

// healthz answers like Kubernetes' livenessprobe: 200 for a driver that is ready or does not say,
// and otherwise 500.
func healthz(r *running) http.HandlerFunc {
	return func(w http.ResponseWriter, request *http.Request) {
		answer, err := csi.NewIdentityClient(r.conn).Probe(request.Context(), &csi.ProbeRequest{})
		if err != nil || (answer.Ready != nil && !answer.Ready.Value) {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}
}

// TestADriverThatWasReadyStaysSo: livenessprobe would restart the driver repeatedly for a fault
// that a restart does not repair.
func TestADriverThatWasReadyStaysSo(t *testing.T) {
	missing, asked := errors.New("interface storage0 is down"), 0
	identity := &csiserver.Identity{Name: "test", Ready: func(context.Context) error { asked++; return missing }}
	r := start(t, &node{}, func(o *csiserver.Options) {
		identity.Logger = o.Logger
		o.Register = func(s *grpc.Server) { csi.RegisterIdentityServer(s, identity) }
	})
	probe := httptest.NewServer(healthz(r))
	defer probe.Close()
	status := func() int {
		response, err := probe.Client().Get(probe.URL)
		assert.NilError(t, err)
		assert.NilError(t, response.Body.Close())
		return response.StatusCode
	}
	assert.Equal(t, status(), http.StatusInternalServerError)
	assert.Equal(t, status(), http.StatusInternalServerError)
	assert.Assert(t, cmp.Contains(r.log.String(), "storage0 is down"))
	missing = nil
	assert.Equal(t, status(), http.StatusOK, "it is ready as soon as it can")
	missing = errors.New("interface storage0 is down again")
	assert.Equal(t, status(), http.StatusOK)
	assert.Equal(t, asked, 3)
	assert.NilError(t, r.stop())
}
