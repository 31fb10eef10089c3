package kernel

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// drainTime bounds the wait for requests of a revoked client, which wait for a
// disk at most.
const drainTime = 30 * time.Second

// drain returns when no request of the clients that began before their
// revocation is under way.
func (e *Engine) drain(ctx context.Context, revoked []nfs.Export) error {
	if !e.server.Runs() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	var clients []netip.Addr
	for _, export := range revoked {
		if export.Spec != "" {
			return e.server.Drain(ctx)
		}
		clients = append(clients, export.Client)
	}
	return e.server.Drain(ctx, clients...)
}

// release makes the server let go of files that revoked clients have open, so
// that the space of a deleted subvolume can be used again. Where it cannot do so
// for one directory, it forgets clients that have nothing else. A failure costs
// space until the clients go, and nothing more.
func (e *Engine) release(revoked []nfs.Export) {
	for _, export := range revoked {
		e.mu.Lock()
		inUse := e.clients.exported(export.Path)
		known := e.clients[export.Client.Unmap()]
		left := known != nil && len(known.exports) > 0
		e.mu.Unlock()
		if inUse {
			continue
		}
		err := e.server.UnlockExport(export.Path)
		if errors.Is(err, nfs.ErrUnsupported) && export.Spec == "" && !left {
			err = e.server.ExpireClient(export.Client)
		}
		if err != nil {
			e.config.Logger.Debug("files that a revoked client has open may hold on to space", "engine", Name,
				"path", export.Path, "client", export.Client, "error", err)
		}
	}
}
