package testenv

import (
	"log/slog"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/test/logbuffer"
)

// Logger writes everything to log, in JSON.
func Logger(t *testing.T, log *logbuffer.Buffer) *slog.Logger {
	t.Helper()
	logger, err := csiserver.NewLogger(log, "debug", "json")
	assert.NilError(t, err)
	return logger
}
