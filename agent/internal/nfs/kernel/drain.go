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

// stopWriters returns when no write is under way that began while one of the exports was writable. After a
// failure the next call waits again.
func (e *Engine) stopWriters(ctx context.Context, exports []published) error {
	versions := map[nfs.Key]uint64{}
	var narrowed []nfs.Export
	e.mu.Lock()
	for _, export := range exports {
		known := e.clients[export.Client]
		if known == nil {
			continue
		}
		if now := known.exports[export.Path]; now.narrowed != 0 {
			versions[export.Key()] = now.narrowed
			narrowed = append(narrowed, now.Export)
		}
	}
	e.mu.Unlock()
	if len(narrowed) == 0 {
		return nil
	}

	if err := e.drain(ctx, narrowed); err != nil {
		return err
	}

	e.mu.Lock()
	defer e.mu.Unlock()
	for key, version := range versions {
		known := e.clients[key.Client]
		if known == nil {
			continue
		}
		now, ok := known.exports[key.Path]
		if ok && now.narrowed == version {
			now.narrowed = 0
			known.exports[key.Path] = now
		}
	}
	return nil
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
