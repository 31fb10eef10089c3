package e2e

import (
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// TestDashboardAndAlertsShowWhatThereIs checks that a controller or node that has done work serves
// every metric of this project that dashboard and alerts name.
func TestDashboardAndAlertsShowWhatThereIs(t *testing.T) {
	s := newScenario(t)
	s.claim("data")
	s.pod("pod", "data", onNode("node-1"))
	s.ready("pod")
	served := get(t, "http://127.0.0.1:9810/metrics") + get(t, "http://10.77.0.11:9820/metrics")
	name := regexp.MustCompile(`\bbtrfs_nfs_csi_[a-z_]+`)
	for _, file := range []string{"dashboard.json", "alerts.yaml"} {
		text, err := os.ReadFile("../../helm/btrfs-nfs-csi/files/" + file)
		assert.NilError(t, err)
		names := name.FindAllString(string(text), -1)
		assert.Assert(t, len(names) > 4)
		slices.Sort(names)
		for _, n := range slices.Compact(names) {
			assert.Check(t, strings.Contains(served, "\n"+n+"{") || strings.Contains(served, "\n"+n+" "), "%s: nobody serves %s", file, n)
		}
	}
	assert.Check(t, is.Contains(served, `btrfs_nfs_csi_build_info{commit=`))
}

func get(t *testing.T, url string) string {
	t.Helper()
	answer, err := http.Get(url)
	assert.NilError(t, err)
	defer func() { assert.Check(t, answer.Body.Close()) }()
	assert.Equal(t, answer.StatusCode, http.StatusOK)
	text, err := io.ReadAll(answer.Body)
	assert.NilError(t, err)
	return string(text)
}
