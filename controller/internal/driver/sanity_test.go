package driver_test

import (
	"context"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/uuid"
	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"
	"google.golang.org/grpc"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/agents"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/controllertest"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/testenv"
)

// notOurs lists the specs that may be skipped: those of services and capabilities that this server
// does not advertise. All others have to run.
var notOurs = []string{
	"Node Service", // the node driver runs them
	"GroupController Service",
	"SNAPSHOT_ACCESSIBILITY_CONSTRAINTS", "accessibility requirements", // snapshots are where their volumes are
	"node max attach limit", // the node driver sets no limit
}

func TestSanity(t *testing.T) {
	url := inMemory{}.Agent(t, map[string]string{"sanity-token": "sanity"})
	static, _ := testenv.Static(t, []controllertest.Class{{Name: "sanity", Token: "sanity-token", Parameters: map[string]string{"agentURL": url}}})
	driver := testenv.Serve(t, agents.NewRegistry(nil, static, testenv.Clients(t, testenv.AgentTimeout)), func(server *grpc.Server) {
		csi.RegisterNodeServer(server, standInNode{})
	})
	config := sanity.NewTestConfig()
	config.Address = driver.Endpoint
	config.TargetPath, config.StagingPath = t.TempDir()+"/target", t.TempDir()+"/staging"
	config.TestVolumeParameters = map[string]string{"agentURL": url}
	config.TestVolumeMutableParameters = map[string]string{"compression": "zstd:3", "nfsMountOptions": "noatime"}
	config.IDGen = ids{}

	gomega.RegisterFailHandler(ginkgo.Fail)
	context := sanity.GinkgoTest(&config)
	defer context.Finalize()
	var ran, skipped int
	var wrongly []string
	ginkgo.ReportAfterEach(func(report ginkgo.SpecReport) {
		name := report.FullText()
		switch report.State {
		case types.SpecStatePassed:
			ran++
		case types.SpecStatePending: // disabled upstream in sanity
			skipped++
		case types.SpecStateSkipped:
			skipped++
			if !allowed(name) {
				wrongly = append(wrongly, name+": "+report.Failure.Message)
			}
		}
	})
	suite, reporter := ginkgo.GinkgoConfiguration()
	suite.SkipStrings = []string{"Node Service"}
	ginkgo.RunSpecs(t, "csi-sanity: identity and controller", suite, reporter)
	t.Logf("csi-sanity: %d passed, %d skipped", ran, skipped)
	assert.Equal(t, len(wrongly), 0, "skipped although advertised:\n%s", strings.Join(wrongly, "\n"))
	assert.Assert(t, ran >= 67, "only %d specs ran", ran)
}

func allowed(spec string) bool {
	for _, part := range notOurs {
		if strings.Contains(spec, part) {
			return true
		}
	}
	return false
}

// ids returns well-formed IDs of the existing class.
type ids struct{}

func (ids) GenerateUniqueValidVolumeID() string { return "sanity|" + uuid.NewString() }
func (ids) GenerateInvalidVolumeID() string     { return "fake-vol-id" }
func (ids) GenerateUniqueValidNodeID() string   { return "fake-node-" + uuid.NewString() }
func (ids) GenerateInvalidNodeID() string       { return "fake-node-id" }

// standInNode implements only the part of a node driver that the controller's specs need.
type standInNode struct {
	csi.UnimplementedNodeServer
}

func (standInNode) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: "sanity-node|192.0.2.10"}, nil
}

func (standInNode) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{}, nil
}

func (standInNode) NodeUnpublishVolume(context.Context, *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	return &csi.NodeUnpublishVolumeResponse{}, nil
}
