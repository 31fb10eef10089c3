package main

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
)

// graceExporter detects that the grace period of the NFS server ended before clients had their
// exports. That happens after a failover that starts the server before the agent. Clients could
// then not reclaim their locks (RFC 8881 section 8.4.2).
type graceExporter struct {
	nfs.Exporter
	server *nfsd.Server
	logger *slog.Logger
	missed atomic.Pointer[time.Time] // time of the detection
}

// graceShown is how long health reports a missed grace period. Clients notice the loss of their
// locks within that time, or never.
const graceShown = time.Hour

// Start implements nfs.Exporter. If the server keeps exports while the agent is down, as during a
// restart of the agent, clients could reclaim their locks.
func (g *graceExporter) Start(ctx context.Context, initial []nfs.Export) error {
	late := g.server.Runs() && g.lacksAll(ctx, initial)
	err := g.Exporter.Start(ctx, initial)
	if late && g.server.GraceEnded() {
		now := time.Now()
		g.missed.Store(&now)
		g.logger.Warn("the grace period of the NFS server has ended before the agent exported volumes: clients that had locks have lost them; start the agent before the NFS server",
			"exports", len(initial))
	}
	return err
}

// lacksAll reports whether the server has none of the exports. A single one may be missing because
// the agent was killed before it exported it.
func (g *graceExporter) lacksAll(ctx context.Context, wanted []nfs.Export) bool {
	exported, err := g.List(ctx)
	if err != nil {
		return false // Start returns the cause
	}
	have := map[nfs.Key]bool{}
	for _, export := range exported {
		have[export.Key()] = true
	}
	for _, export := range wanted {
		if have[export.Key()] {
			return false
		}
	}
	return len(wanted) > 0
}

// graceMissed reports whether clients may have lost their locks recently.
func (g *graceExporter) graceMissed() bool {
	at := g.missed.Load()
	return at != nil && time.Since(*at) < graceShown
}
