package driver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/driver"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/staged"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/test/mounttest"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
)

func TestMain(m *testing.M) { mounttest.Main(m) }

const (
	rwo  = csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	rwop = csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	rox  = csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	rwx  = csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
)

// testEnv is a node with its kubelet directory and an agent.
type testEnv struct {
	csi.NodeServer // the driver that runs now

	backend mounttest.Backend
	dir     string // the kubelet's directory
	state   string
	agent   *agent
	// The state of the node for the next driver that starts.
	supported func(context.Context) error
	address   func() (netip.Addr, error)
	// agentTimeout is short only if an agent is silent: a working agent may be slow on a busy machine.
	agentTimeout time.Duration
}

func newTestEnv(t *testing.T) *testEnv {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	assert.NilError(t, err)
	env := &testEnv{
		backend: mounttest.New(t), dir: dir, state: filepath.Join(dir, "csi", "state"), agent: newAgent(t),
		supported: func(context.Context) error { return nil },
		address:   func() (netip.Addr, error) { return netip.MustParseAddr("10.0.0.7"), nil }, agentTimeout: 5 * time.Second,
	}
	t.Cleanup(func() { env.reboot(t) })
	env.restart(t)
	return env
}

// restart replaces the driver with a new one. The new one inherits only disk and mounts.
func (env *testEnv) restart(t *testing.T) {
	t.Helper()
	env.NodeServer = driver.OneAtATime(env.node(t, env.backend.Mounter()))
}

func (env *testEnv) node(t *testing.T, mounts driver.Mounts) *driver.Node {
	t.Helper()
	store, err := staged.Open(env.state)
	assert.NilError(t, err)
	agents := agentclient.NewPool(agentclient.Options{Timeout: env.agentTimeout})
	t.Cleanup(agents.Close)
	return &driver.Node{
		Name: "worker-1", Address: env.address, Supported: env.supported,
		Mounts: mounts, Agents: agents, Store: store, Logger: slog.New(slog.DiscardHandler),
	}
}

// mounts returns all mounts below the test's directory, in the kernel's order.
func (env *testEnv) mounts(t *testing.T) []string {
	t.Helper()
	infos, err := mountinfo.GetMounts(nil)
	assert.NilError(t, err)
	var found []string
	for _, info := range infos {
		if rel, err := filepath.Rel(env.dir, info.Mountpoint); err == nil && filepath.IsLocal(rel) {
			found = append(found, rel)
		}
	}
	return found
}

// reboot removes all mounts, as a reboot does. The directories stay.
func (env *testEnv) reboot(t *testing.T) {
	t.Helper()
	for _, m := range slices.Backward(env.mounts(t)) {
		assert.NilError(t, unix.Unmount(filepath.Join(env.dir, m), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW))
	}
}

// volume is a volume with its paths and requests.
type volume struct {
	env     *testEnv
	id      string
	source  nfsmount.Source
	mode    csi.VolumeCapability_AccessMode_Mode
	group   string
	staging string
	more    map[string]string // more keys of the publish context
}

func (env *testEnv) volume(t *testing.T, mode csi.VolumeCapability_AccessMode_Mode) *volume {
	t.Helper()
	return env.volumeOf(env.backend.NewVolume(t), mode)
}

func (env *testEnv) volumeOf(source nfsmount.Source, mode csi.VolumeCapability_AccessMode_Mode) *volume {
	name := filepath.Base(filepath.Dir(source.Path)) // …/{volume}/data
	return &volume{env: env, id: "class|" + name, source: source, mode: mode, staging: filepath.Join(env.dir, "plugins", name, "globalmount")}
}

func (v *volume) name() string { return filepath.Base(filepath.Dir(v.source.Path)) }

func (v *volume) capability() *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: v.mode},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{VolumeMountGroup: v.group}},
	}
}

func (v *volume) context() map[string]string {
	context := map[string]string{
		"nfsServer": v.source.Server, "nfsPath": v.source.Path, "nfsMountOptions": "noatime",
		"agentURL": v.env.agent.url(), "usageToken": "token-of-" + v.name(),
	}
	maps.Copy(context, v.more)
	return context
}

func (v *volume) target(pod string) string {
	return filepath.Join(v.env.dir, "pods", pod, "volumes", v.name(), "mount")
}

func (v *volume) stageRequest() *csi.NodeStageVolumeRequest {
	return &csi.NodeStageVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging, VolumeCapability: v.capability(), PublishContext: v.context()}
}

func (v *volume) publishRequest(pod string, readOnly bool) *csi.NodePublishVolumeRequest {
	return &csi.NodePublishVolumeRequest{
		VolumeId: v.id, StagingTargetPath: v.staging, TargetPath: v.target(pod), Readonly: readOnly,
		VolumeCapability: v.capability(), PublishContext: v.context(),
	}
}

func (v *volume) stage(t *testing.T) error {
	_, err := v.env.NodeStageVolume(t.Context(), v.stageRequest())
	return err
}

func (v *volume) publish(t *testing.T, pod string, readOnly bool) error {
	_, err := v.env.NodePublishVolume(t.Context(), v.publishRequest(pod, readOnly))
	return err
}

func (v *volume) unpublish(t *testing.T, pod string) error {
	_, err := v.env.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: v.id, TargetPath: v.target(pod)})
	return err
}

func (v *volume) unstage(t *testing.T) error {
	_, err := v.env.NodeUnstageVolume(t.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging})
	return err
}

func (v *volume) stats(t *testing.T, path string) (*csi.NodeGetVolumeStatsResponse, error) {
	return v.env.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: v.id, VolumePath: path})
}

func hasCode(t *testing.T, err error, want codes.Code, words ...string) {
	t.Helper()
	assert.Equal(t, status.Code(err), want, "%v", err)
	for _, w := range words {
		assert.ErrorContains(t, err, w)
	}
}

func isEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	assert.NilError(t, err)
	assert.Equal(t, len(entries), 0, "%v", entries)
}

// agent answers for usage as the test configures it.
type agent struct {
	server *httptest.Server

	mu     sync.Mutex
	answer func(http.ResponseWriter)
	health agentapi.Health
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	a := &agent{}
	a.usage(agentapi.Usage{QuotaBytes: 1 << 30, UsedBytes: 1 << 20, Health: agentapi.VolumeHealth{}})
	a.server = httptest.NewServer(http.HandlerFunc(a.serve))
	t.Cleanup(a.server.Close)
	return a
}

func (a *agent) url() string { return a.server.URL }

func (a *agent) serve(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r.URL.Path == "/healthz" {
		reply(w, http.StatusOK, a.health)
		return
	}
	var name string
	if _, err := fmt.Sscanf(r.URL.Path, "/v1/volumes/%s", &name); err != nil {
		http.NotFound(w, r)
		return
	}
	if r.Header.Get(agentapi.UsageTokenHeader) != "token-of-"+filepath.Dir(name) {
		reply(w, http.StatusForbidden, agentapi.ErrorBody{Code: agentapi.Forbidden, Error: "not this volume's token"})
		return
	}
	a.answer(w)
}

func (a *agent) set(answer func(http.ResponseWriter)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = answer
}

func (a *agent) usage(u agentapi.Usage) {
	a.set(func(w http.ResponseWriter) { reply(w, http.StatusOK, u) })
}

func (a *agent) degrade(conditions ...agentapi.Condition) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.health = agentapi.Health{Status: agentapi.StatusDegraded, Conditions: conditions}
}

func (a *agent) fail(httpStatus int, code agentapi.Code) {
	a.set(func(w http.ResponseWriter) {
		reply(w, httpStatus, agentapi.ErrorBody{Code: code, Error: "as the test says"})
	})
}

func reply(w http.ResponseWriter, httpStatus int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(httpStatus)
	_ = json.NewEncoder(w).Encode(body) // the client reports the error
}
