package e2e

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/e2e/cluster"
)

// TestRendersAreValid hands every committed render to the API server, which checks each field, without keeping it.
func TestRendersAreValid(t *testing.T) {
	files, err := filepath.Glob("../../helm/test/testdata/renders/*.yaml")
	assert.NilError(t, err)
	assert.Assert(t, len(files) >= 4)
	s := newScenario(t)
	for _, namespace := range []string{"storage", "databases", "team-a", "team-b"} {
		s.kubectl("create", "namespace", namespace)
		t.Cleanup(func() { s.kubectl("delete", "namespace", namespace, "--wait=false") })
	}
	installMonitoring(t, s)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			assert.NilError(t, err)
			kept := filepath.Join(t.TempDir(), "objects.yaml")
			assert.NilError(t, os.WriteFile(kept, withoutNotes(text), 0o600))
			out, err := s.cluster.Kubectl(s.ctx, "apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", kept)
			assert.NilError(t, err)
			assert.Assert(t, strings.Count(out, "\n") > 10, out)
		})
	}
}

// installMonitoring lets the API server know the kinds of the Prometheus operator, for the time of a test.
func installMonitoring(t *testing.T, s *scenario) {
	t.Helper()
	files, err := s.cluster.MonitoringCRDs()
	assert.NilError(t, err)
	for _, kind := range []string{"podmonitors", "servicemonitors", "prometheusrules"} {
		i := slices.IndexFunc(files, func(f string) bool { return strings.HasSuffix(f, "_"+kind+".yaml") })
		assert.Assert(t, i >= 0, "%s: not in %v", kind, files)
		s.kubectl("apply", "--server-side", "-f", files[i])
		t.Cleanup(func() { s.kubectl("delete", "-f", files[i], "--wait=false") })
		s.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd/"+kind+".monitoring.coreos.com")
	}
}

// withoutNotes leaves out what Helm prints for people.
func withoutNotes(text []byte) []byte {
	var kept [][]byte
	for document := range bytes.SplitSeq(text, []byte("\n---\n")) {
		if !bytes.Contains(document, []byte("/NOTES.txt\n")) {
			kept = append(kept, document)
		}
	}
	return bytes.Join(kept, []byte("\n---\n"))
}

// TestHelmTest runs the chart's own test, and an upgrade, with both versions of Helm.
func TestHelmTest(t *testing.T) {
	s := newScenario(t)
	for _, version := range []int{3, 4} {
		ctx, cancel := context.WithTimeout(s.ctx, 3*time.Minute)
		defer cancel()
		timed(t, map[int]string{3: "helm 3 test", 4: "helm 4 test"}[version], func() {
			out, err := s.cluster.Helm(ctx, version, "test", cluster.Release, "--namespace", cluster.Namespace, "--timeout", "2m")
			assert.NilError(t, err, out)
		})
		out, err := s.cluster.Helm(ctx, version, "upgrade", cluster.Release, "../../helm/btrfs-nfs-csi", "--namespace", cluster.Namespace, "--reuse-values")
		assert.NilError(t, err, out)
	}
}
