package csiserver

import (
	"io"
	"log/slog"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/log"
)

// NewLogger is log.New: see there.
func NewLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	return log.New(w, level, format)
}
