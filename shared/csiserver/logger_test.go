package csiserver_test

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
)

func TestLinesOfACallHaveItsRequestID(t *testing.T) {
	var out strings.Builder
	logger, err := csiserver.NewLogger(&out, "info", "logfmt")
	assert.NilError(t, err)
	logger = logger.With("node", "worker-1")
	logger.InfoContext(csiserver.WithRequestID(t.Context(), "id-1"), "within")
	assert.Assert(t, cmp.Contains(out.String(), "request_id=id-1"))
	assert.Assert(t, cmp.Contains(out.String(), "node=worker-1"))
	out.Reset()
	logger.InfoContext(t.Context(), "without")
	assert.Assert(t, !strings.Contains(out.String(), "request_id"), out.String())
}
