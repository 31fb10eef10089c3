package driver_test

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/fakeagent"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// copyOf requests a copy of the snapshot "snap" of the volume "source". It creates both.
func copyOf(t *testing.T, e *testEnv, name string, parameters map[string]string) *csi.CreateVolumeRequest {
	t.Helper()
	source := e.create(t, "source")
	snapshot, err := e.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{SourceVolumeId: source.VolumeId, Name: "snap"})
	assert.NilError(t, err)
	r := createRequest(name, parameters)
	r.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: snapshot.Snapshot.SnapshotId}}}
	return r
}

var allProperties = map[string]string{"uid": "1000", "gid": "2000", "mode": "0751", "compression": "zstd", "rootSquash": "true"}

// A volume is complete after one request to the agent, whatever its source. A second request could
// be refused and leave the volume incomplete.
func TestOneRequestMakesAVolume(t *testing.T) {
	var changes atomic.Int32
	e := start(t, func(a *fakeagent.Agent) {
		a.Intercept = func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet {
				changes.Add(1)
			}
			return false
		}
	})
	requests := map[string]*csi.CreateVolumeRequest{
		"empty": createRequest("empty", allProperties), "copy": copyOf(t, e, "copy", allProperties), "clone": createRequest("clone", allProperties),
	}
	requests["clone"].VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: "fast|source"}}}
	for name, r := range requests {
		r.MutableParameters = map[string]string{"gid": "7", "labels": "a=b", "sizeLimit": "off", "nfsMountOptions": "noatime"}
		changes.Store(0)
		_, err := e.CreateVolume(t.Context(), r)
		assert.NilError(t, err, name)
		assert.Equal(t, changes.Load(), int32(1), name)
		v := e.agent.Volume(token, name)
		assert.Equal(t, v.Uid, int64(1000))
		assert.Equal(t, v.Gid, int64(7))
		assert.Equal(t, v.Mode, "0751")
		assert.Equal(t, v.Compression, "zstd")
		assert.Assert(t, v.RootSquash)
		assert.Equal(t, v.QuotaBytes, int64(0))
		assert.Equal(t, v.Labels["a"], "b")
		assert.DeepEqual(t, v.MountOptions, []string{"noatime"})

		for key, value := range map[string]string{"gid": "8", "sizeLimit": "on", "nfsMountOptions": ""} {
			r.MutableParameters = map[string]string{"gid": "7", "labels": "a=b", "sizeLimit": "off", "nfsMountOptions": "noatime", key: value}
			_, err := e.CreateVolume(t.Context(), r)
			failed(t, err, codes.AlreadyExists, key)
		}
	}
}

// An older agent creates volumes that need only properties it supports. The driver refuses others
// before anything is created.
func TestOlderAgentMakesWhatItCan(t *testing.T) {
	for name, features := range map[string][]string{"57e475d": nil, "main": {agentapi.FeatureVolumeID}} {
		t.Run(name, func(t *testing.T) {
			e := start(t, func(a *fakeagent.Agent) { a.Features = features })
			r := copyOf(t, e, "copy", nil)
			source := e.agent.Volume(token, "source")
			for name, parameters := range map[string]map[string]string{
				"plain": nil, "same": {"mode": source.Mode, "uid": "0", "compression": "none", "nocow": "false"},
			} {
				r.Name, r.Parameters = name, parameters
				for range 2 {
					_, err := e.CreateVolume(t.Context(), r)
					assert.NilError(t, err, name)
				}
			}
			for key, value := range allProperties {
				r.Name, r.Parameters = "refused", map[string]string{key: value}
				_, err := e.CreateVolume(t.Context(), r)
				failed(t, err, codes.FailedPrecondition, "upgrade the agent", e.url, agentapi.FeatureCloneProperties)
			}
			for key, value := range map[string]string{"sizeLimit": "off", "nfsMountOptions": "hard"} {
				empty := createRequest("refused", nil)
				empty.MutableParameters = map[string]string{key: value}
				_, err := e.CreateVolume(t.Context(), empty)
				failed(t, err, codes.FailedPrecondition, "upgrade the agent", e.url, agentapi.FeatureCreateProperties)
			}
			assert.Assert(t, e.agent.Volume(token, "refused") == nil)
			on := createRequest("on", nil)
			on.MutableParameters = map[string]string{"sizeLimit": "on", "nfsMountOptions": ""}
			_, err := e.CreateVolume(t.Context(), on)
			assert.NilError(t, err, "what a volume has by itself needs no feature")
		})
	}
}

// The agent creates the object, and then returns an internal error or no answer. The sidecar must
// retry.
func TestNoFinalCodeAfterTheAgentHasMadeSomething(t *testing.T) {
	var now atomic.Bool
	e := start(t, func(a *fakeagent.Agent) {
		a.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodGet || !now.CompareAndSwap(true, false) {
				return false
			}
			a.ServeHTTP(httptest.NewRecorder(), r)
			fakeagent.Fail(w, agentapi.Errorf(agentapi.InternalError, "no usage"))
			return true
		}
	})
	again := func(call func() error) {
		t.Helper()
		now.Store(true)
		failed(t, call(), codes.Unavailable, "no usage")
		assert.NilError(t, call())
	}
	r := copyOf(t, e, "copy", nil)
	again(func() error { _, err := e.CreateVolume(t.Context(), createRequest("empty", nil)); return err })
	again(func() error { _, err := e.CreateVolume(t.Context(), r); return err })
	again(func() error {
		_, err := e.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{SourceVolumeId: "fast|source", Name: "another"})
		return err
	})
	again(func() error {
		_, err := e.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{VolumeId: "fast|empty", CapacityRange: &csi.CapacityRange{RequiredBytes: 2 * gib}})
		return err
	})
}

// A copy was created and the answer lost. The copy is the answer, whatever happened to the source
// since.
func TestCopyWhoseSourceHasChangedSince(t *testing.T) {
	for name, change := range map[string]func(e *testEnv) error{
		"grown": func(e *testEnv) error {
			_, err := e.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{VolumeId: "fast|source", CapacityRange: &csi.CapacityRange{RequiredBytes: 2 * gib}})
			return err
		},
		"of another class": func(e *testEnv) error {
			e.agent.Edit(token, "source", func(v *agentapi.VolumeDetail) { v.Labels["storage-class"] = "other" })
			return nil
		},
		"deleted": func(e *testEnv) error {
			_, err := e.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: "fast|source"})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := start(t, nil)
			e.create(t, "source")
			r := createRequest("copy", nil)
			r.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: "fast|source"}}}
			_, err := e.CreateVolume(t.Context(), r)
			assert.NilError(t, err)
			assert.NilError(t, change(e))
			answer, err := e.CreateVolume(t.Context(), r)
			assert.NilError(t, err)
			assert.Equal(t, answer.Volume.VolumeId, "fast|copy")
		})
	}
}

// A snapshot was created, the answer was lost, and the volume is deleted. While the agent cannot
// say whether the snapshot exists, the sidecar must not treat it as not made.
func TestSnapshotOfADeletedVolumeIsNotForgotten(t *testing.T) {
	var fail atomic.Bool
	e := start(t, func(a *fakeagent.Agent) {
		a.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
			switch {
			case !fail.Load():
				return false
			case r.Method == http.MethodPost:
				fakeagent.Fail(w, agentapi.Errorf(agentapi.NotFound, "there is no volume"))
			default:
				fakeagent.Fail(w, agentapi.Errorf(agentapi.Unavailable, "starting"))
			}
			return true
		}
	})
	e.create(t, "source")
	r := &csi.CreateSnapshotRequest{SourceVolumeId: "fast|source", Name: "snap"}
	_, err := e.CreateSnapshot(t.Context(), r)
	assert.NilError(t, err)
	_, err = e.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: "fast|source"})
	assert.NilError(t, err)
	fail.Store(true)
	_, err = e.CreateSnapshot(t.Context(), r)
	failed(t, err, codes.Unavailable, "starting")
	fail.Store(false)
	_, err = e.CreateSnapshot(t.Context(), r)
	assert.NilError(t, err)
}
