//go:build lab

// Package sanity runs csi-sanity on the whole system: the real controller, node driver and agent,
// on btrfs and NFS, with both export engines and both quota modes.
package sanity

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	csisanity "github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/system"
)

// notAdvertised lists the specs that may be skipped: those of services and capabilities that the
// drivers do not advertise. All others have to run.
var notAdvertised = []string{
	"GroupController Service",
	"NodeExpandVolume", "Node expand", // a volume grows only on the server
	"SNAPSHOT_ACCESSIBILITY_CONSTRAINTS", "accessibility requirements", // snapshots are where their volumes are
	"node max attach limit", // there is no limit
}

type setUp struct {
	name, engine, quota string
	nfs                 lab.NFSMode
}

var setUps = []setUp{
	{"exportfs engine, full quotas", "exportfs", "full", lab.Mountd},
	{"exportfs engine, simple quotas", "exportfs", "simple", lab.Mountd},
	{"kernel engine, full quotas", "kernel", "full", lab.Unanswered},
	{"kernel engine, simple quotas", "kernel", "simple", lab.Unanswered},
}

func TestSanity(t *testing.T) {
	lab.Require(t)
	var contexts []*csisanity.TestContext
	for _, s := range setUps {
		ginkgo.Describe("["+s.name+"]", ginkgo.Ordered, ginkgo.ContinueOnFailure, func() { contexts = append(contexts, s.specs()) })
	}
	counts := map[types.SpecState]int{}
	var wrongly []string
	ginkgo.ReportAfterEach(func(report ginkgo.SpecReport) {
		counts[report.State]++
		if report.State == types.SpecStateSkipped && !allowed(report.FullText()) {
			wrongly = append(wrongly, report.FullText()+": "+report.Failure.Message)
		}
	})
	gomega.RegisterFailHandler(ginkgo.Fail)
	suite, reporter := ginkgo.GinkgoConfiguration()
	reporter.Succinct = true
	ginkgo.RunSpecs(t, "csi-sanity on the whole", suite, reporter)
	for _, c := range contexts {
		c.Finalize()
	}
	fmt.Printf("csi-sanity: %d passed, %d failed, %d skipped, %d disabled by csi-sanity itself\n", counts[types.SpecStatePassed],
		counts[types.SpecStateFailed], counts[types.SpecStateSkipped], counts[types.SpecStatePending])
	assert.Equal(t, len(wrongly), 0, "skipped although advertised:\n%s", strings.Join(wrongly, "\n"))
	assert.Assert(t, counts[types.SpecStatePassed] >= 70*len(setUps), "only %d specs ran", counts[types.SpecStatePassed])
}

// specs declares csi-sanity's specs for one configuration, which starts before the first of them.
func (u setUp) specs() *csisanity.TestContext {
	config := csisanity.NewTestConfig()
	config.IDGen = ids{}
	config.TestVolumeMutableParameters = map[string]string{"compression": "zstd:3", "nfsMountOptions": "noatime"}
	config.TestVolumeSize, config.TestVolumeExpandSize = 64<<20, 128<<20
	var s *system.System
	ginkgo.BeforeAll(func() {
		var err error
		s, err = system.Start(system.Options{
			Lab:      lab.Options{Nodes: 1, NFS: u.nfs, PoolSize: 16 << 30},
			AgentEnv: []string{"AGENT_NFS_EXPORTER=" + u.engine, "AGENT_QUOTA_MODE=" + u.quota},
		})
		gomega.Expect(err).NotTo(gomega.HaveOccurred())
		dir, err := os.MkdirTemp("", "sanity-")
		gomega.Expect(err).NotTo(gomega.HaveOccurred())
		config.Address, config.ControllerAddress = s.Nodes[0].Endpoint, s.ControllerEndpoint
		config.TargetPath, config.StagingPath = filepath.Join(dir, "target"), filepath.Join(dir, "staging")
		config.TestVolumeParameters = s.ClassParameters()
	})
	ginkgo.AfterAll(func() {
		if s != nil {
			gomega.Expect(s.Close()).To(gomega.Succeed())
		}
	})
	return csisanity.GinkgoTest(&config)
}

func allowed(spec string) bool {
	for _, part := range notAdvertised {
		if strings.Contains(spec, part) {
			return true
		}
	}
	return false
}

// ids returns well-formed IDs of the existing class.
type ids struct{}

func (ids) GenerateUniqueValidVolumeID() string { return "fast|" + uuid.NewString() }
func (ids) GenerateInvalidVolumeID() string     { return "fake-vol-id" }
func (ids) GenerateUniqueValidNodeID() string   { return "fake-node-" + uuid.NewString() }
func (ids) GenerateInvalidNodeID() string       { return "fake-node-id" }
