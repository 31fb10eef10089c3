package harness

import (
	"log/slog"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
)

// Logger writes everything to log, in JSON.
func Logger(t *testing.T, log *Log) *slog.Logger {
	t.Helper()
	logger, err := csiserver.NewLogger(log, "debug", "json")
	assert.NilError(t, err)
	return logger
}
