package csiserver

import (
	"context"
	"io"
	"log/slog"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/log"
)

// NewLogger is log.New. In addition, lines that are logged with the context of a CSI call have its
// request ID.
func NewLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	logger, err := log.New(w, level, format)
	if err != nil {
		return nil, err
	}
	return slog.New(withCall{logger.Handler()}), nil
}

type withCall struct{ slog.Handler }

func (h withCall) Handle(ctx context.Context, record slog.Record) error {
	if id := RequestID(ctx); id != "" {
		record.AddAttrs(slog.String("request_id", id))
	}
	return h.Handler.Handle(ctx, record)
}

func (h withCall) WithAttrs(attrs []slog.Attr) slog.Handler {
	return withCall{h.Handler.WithAttrs(attrs)}
}

func (h withCall) WithGroup(name string) slog.Handler { return withCall{h.Handler.WithGroup(name)} }
