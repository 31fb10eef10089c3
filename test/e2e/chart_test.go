package e2e

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/e2e/cluster"
)

// notServed are kinds of the Prometheus operator, which this cluster does not have.
var notServed = []string{"kind: PodMonitor", "kind: ServiceMonitor", "kind: PrometheusRule"}

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
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			assert.NilError(t, err)
			kept := filepath.Join(t.TempDir(), "objects.yaml")
			assert.NilError(t, os.WriteFile(kept, withoutForeign(text), 0o600))
			out, err := s.cluster.Kubectl(s.ctx, "apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", kept)
			assert.NilError(t, err)
			assert.Assert(t, strings.Count(out, "\n") > 10, out)
		})
	}
}

func withoutForeign(text []byte) []byte {
	var kept [][]byte
	for document := range bytes.SplitSeq(text, []byte("\n---\n")) {
		foreign := bytes.Contains(document, []byte("/NOTES.txt\n"))
		for _, kind := range notServed {
			foreign = foreign || bytes.Contains(document, []byte(kind))
		}
		if !foreign {
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
