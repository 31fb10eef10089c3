// Package csiservertest reads the metrics of a driver under test.
package csiservertest

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"

	"gotest.tools/v3/assert"
)

// MetricsAddr returns a loopback address of this process, so that no other process listens there.
func MetricsAddr() string {
	pid := os.Getpid()
	return fmt.Sprintf("127.%d.%d.%d:9817", 1+pid>>16&0x7f, pid>>8&0xff, pid&0xff)
}

// Metrics returns the driver's metrics.
func Metrics(t *testing.T, address string) string {
	t.Helper()
	answer, err := http.Get("http://" + address + "/metrics")
	assert.NilError(t, err)
	defer func() { assert.NilError(t, answer.Body.Close()) }()
	assert.Equal(t, answer.StatusCode, http.StatusOK)
	text, err := io.ReadAll(answer.Body)
	assert.NilError(t, err)
	return string(text)
}
