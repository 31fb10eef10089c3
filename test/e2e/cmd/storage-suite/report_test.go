package main

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

const sample = `[{"SpecReports": [
  {"LeafNodeType": "SynchronizedBeforeSuite", "State": "passed"},
  {"ContainerHierarchyTexts": ["External Storage", "[Driver: btrfs-nfs-csi]", "[Testpattern: Dynamic PV (default fs)] subPath"], "LeafNodeType": "It", "LeafNodeText": "should work", "State": "passed", "NumAttempts": 2},
  {"ContainerHierarchyTexts": ["External Storage", "[Driver: btrfs-nfs-csi]", "[Testpattern: Dynamic PV (default fs)] volume-stress [Slow]"], "LeafNodeType": "It", "LeafNodeText": "should last", "State": "timedout", "Failure": {"Message": "too late\nat line 3"}},
  {"ContainerHierarchyTexts": ["External Storage", "[Driver: btrfs-nfs-csi]", "[Testpattern: Dynamic PV (ntfs)] [Feature:Windows] volumes"], "LeafNodeType": "It", "LeafNodeText": "should store data", "State": "skipped", "Failure": {"Message": "Driver btrfs-nfs-csi doesn't support ntfs -- skipping"}},
  {"ContainerHierarchyTexts": ["External Storage", "[Driver: btrfs-nfs-csi]", "[Testpattern: Dynamic PV (default fs)] provisioning"], "LeafNodeType": "It", "LeafNodeText": "should provision correct filesystem size when restoring snapshot to larger size pvc", "State": "failed", "Failure": {"Message": "Expected"}},
  {"ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeType": "It", "LeafNodeText": "should resolve", "State": "skipped"}
]}]`

func TestReport(t *testing.T) {
	specs, err := parseReport([]byte(sample))
	assert.NilError(t, err)
	s := summarize(specs)
	assert.Equal(t, s.Total, count{Passed: 1, Excepted: 1, Failed: 1, NotApplicable: 1})
	assert.Equal(t, *s.ByGroup["slow"], count{Failed: 1})
	assert.Equal(t, *s.ByGroup["feature"], count{NotApplicable: 1})
	assert.Equal(t, *s.ByGroup["fast"], count{Passed: 1, Excepted: 1})
	assert.Equal(t, len(s.Again), 1)
	assert.DeepEqual(t, s.Suites(), []string{"provisioning", "subPath", "volume-stress", "volumes"})
	assert.DeepEqual(t, s.SortedReasons(), []string{"the driver doesn't support ntfs"})
	assert.ErrorContains(t, s.err(), "timedout: External Storage")
	assert.Check(t, !strings.Contains(s.err().Error(), "larger size"))
	text := string(s.document())
	for _, want := range []string{"| fast | 2 | 1 | 1 | 0 | 0 |\n", "| **all** | 3 | 1 | 1 | 1 | 1 |\n", "| 1 | the driver doesn't support ntfs |\n", "## Failures"} {
		assert.Check(t, is.Contains(text, want))
	}
}

func TestExceptionThatPassesIsAnError(t *testing.T) {
	specs, err := parseReport([]byte(strings.Replace(sample, `"failed"`, `"passed"`, 1)))
	assert.NilError(t, err)
	assert.ErrorContains(t, summarize(specs).err(), "passed, but is listed as an exception")
}

func TestNothingRunIsAnError(t *testing.T) {
	assert.ErrorContains(t, summarize(nil).err(), "no spec has passed")
}

func TestSuiteThatDoesNotStart(t *testing.T) {
	_, err := parseReport([]byte(`[{"SpecReports": [{"LeafNodeType": "SynchronizedBeforeSuite", "State": "failed", "Failure": {"Message": "no nodes"}}]}]`))
	assert.ErrorContains(t, err, "no nodes")
}
