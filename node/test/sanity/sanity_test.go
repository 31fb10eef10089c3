// Package sanity runs the node specs of csi-sanity against the node driver, with local mounts
// instead of NFS. Module test runs all specs on real NFS with the real controller.
package sanity

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/driver"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/staged"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/test/mounttest"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
)

// Ginkgo waits for signals for the life of the process.
func TestMain(m *testing.M) {
	mounttest.Main(m, goleak.IgnoreAnyFunction("github.com/onsi/ginkgo/v2/internal/interrupt_handler.(*InterruptHandler).registerForInterrupts.func2"))
}

func TestNodeAndIdentity(t *testing.T) {
	dir := t.TempDir()
	config := sanity.NewTestConfig()
	config.TargetPath, config.StagingPath = filepath.Join(dir, "target"), filepath.Join(dir, "staging")
	config.Address = serve(t, dir)

	context := sanity.GinkgoTest(&config)
	gomega.RegisterFailHandler(ginkgo.Fail)
	suite, reporter := ginkgo.GinkgoConfiguration()
	suite.FocusStrings = []string{"Identity Service", "Node Service"}
	assert.Assert(t, ginkgo.RunSpecs(t, "csi-sanity, node and identity", suite, reporter))
	context.Finalize()
}

func serve(t *testing.T, dir string) string {
	t.Helper()
	store, err := staged.Open(filepath.Join(dir, "state"))
	assert.NilError(t, err)
	agents := agentclient.NewPool(agentclient.Options{}) // the volumes here have no agent
	t.Cleanup(agents.Close)
	logger := slog.New(slog.DiscardHandler)
	node := &driver.Node{
		Driver: "btrfs-nfs-csi",
		Name:   "worker-1", Address: func() (netip.Addr, error) { return netip.MustParseAddr("10.0.0.7"), nil },
		Supported: func(context.Context) error { return nil },
		Mounts:    mounttest.NewLocal().Mounter(), Agents: agents, Store: store, Logger: logger,
	}
	endpoint := "unix://" + filepath.Join(dir, "csi.sock")
	ready, ended := make(chan struct{}), make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		ended <- csiserver.Serve(ctx, csiserver.Options{
			Endpoint: endpoint, DriverName: "btrfs-nfs-csi", Logger: logger, Registry: csiserver.NewRegistry("node"),
			Listening: func(net.Addr, net.Addr) { close(ready) },
			Register: func(s *grpc.Server) {
				csi.RegisterIdentityServer(s, &csiserver.Identity{Name: "btrfs-nfs-csi", Logger: logger})
				csi.RegisterNodeServer(s, driver.OneAtATime(node))
				csi.RegisterControllerServer(s, &controller{volumes: map[string]bool{}})
			},
		})
	}()
	t.Cleanup(func() {
		cancel()
		assert.NilError(t, <-ended)
	})
	<-ready
	return endpoint
}

// controller implements the calls that the node specs need. It only remembers its volumes.
type controller struct {
	csi.UnimplementedControllerServer

	volumes map[string]bool
}

func (*controller) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	response := &csi.ControllerGetCapabilitiesResponse{}
	for _, c := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME,
		csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		response.Capabilities = append(response.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: c}},
		})
	}
	return response, nil
}

func (c *controller) CreateVolume(_ context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	c.volumes[r.Name] = true
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{VolumeId: "class|" + r.Name, CapacityBytes: r.GetCapacityRange().GetRequiredBytes()}}, nil
}

func (c *controller) DeleteVolume(context.Context, *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	return &csi.DeleteVolumeResponse{}, nil
}

func (c *controller) ControllerPublishVolume(_ context.Context, r *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	name := r.VolumeId[len("class|"):]
	if !c.volumes[name] {
		return nil, status.Error(codes.NotFound, r.VolumeId)
	}
	return &csi.ControllerPublishVolumeResponse{PublishContext: map[string]string{
		csiserver.ContextServer: "storage.test", csiserver.ContextPath: "/pool/tenant/" + name + "/data",
	}}, nil
}

func (c *controller) ControllerUnpublishVolume(context.Context, *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	return &csi.ControllerUnpublishVolumeResponse{}, nil
}
