package kernel

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/rpccache"
)

// stopWriters returns when no write is under way that began while one of the exports was writable.
// After a failure the next call waits again.
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

	if err := e.server.DrainExports(ctx, narrowed); err != nil {
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

// remaining is what clients may reach in exports of the engine, and in what
// another program has told the kernel.
type remaining struct{ *Engine }

// ToClient implements nfsd.Exported.
func (r remaining) ToClient(addr netip.Addr) (bool, error) {
	r.mu.Lock()
	known := r.clients[addr] != nil
	r.mu.Unlock()
	if known {
		return true, nil
	}
	cached, err := r.cachedExports()
	if err != nil {
		return false, fmt.Errorf("%w: %w", nfs.ErrUnavailable, err)
	}
	return slices.ContainsFunc(cached, func(entry rpccache.CachedExport) bool {
		return entry.Positive && !entry.PseudoRoot && entry.Domain == addr.String() && !deleted(entry.Path)
	}), nil
}

// ShutOut implements nfsd.Exported. Without a domain, an address gets nothing but
// refusals from the server. Afterwards it has one again, with nothing exported to
// it: a client that still has something mounted gets ESTALE, and does not connect
// again for each of its requests.
func (r remaining) ShutOut(addr netip.Addr) (letIn func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, nfs.ErrClosed
	}
	if r.clients[addr] != nil || r.shutOut[addr] != nil {
		return nil, nil // published, or shut out by another fence, meanwhile
	}
	if err := r.send(clientMessage(addr, "", r.now().Add(revoked).Unix())); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	r.shutOut[addr] = ended
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.shutOut, addr)
		close(ended)
		if !r.closed {
			// What the kernel does not take it asks for.
			_ = r.send(clientMessage(addr, addr.String(), r.now().Add(revoked).Unix()))
		}
	}, nil
}

// lockFor takes mu when the client is not shut out.
func (e *Engine) lockFor(addr netip.Addr) {
	e.mu.Lock()
	for ended := e.shutOut[addr]; ended != nil; ended = e.shutOut[addr] {
		e.mu.Unlock()
		<-ended // within nfsd.FenceTime
		e.mu.Lock()
	}
}

// AtPath implements nfsd.Exported.
func (r remaining) AtPath(path string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.clients.exported(path)
}
