package kernel

import (
	"context"
	"net/netip"
	"slices"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/rpccache"
)

// stopWriters waits for the writes that began while one of the exports was writable. After a
// failure the next call waits again.
func (e *Engine) stopWriters(ctx context.Context, exports []published) error {
	versions := map[nfs.Key]uint64{}
	var narrowed []nfs.Export
	e.mu.Lock()
	for _, export := range exports {
		client := e.clients[export.Client]
		if client == nil {
			continue
		}
		if now := client.exports[export.Path]; now.narrowed != 0 {
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
		client := e.clients[key.Client]
		if client == nil {
			continue
		}
		now, ok := client.exports[key.Path]
		if ok && now.narrowed == version {
			now.narrowed = 0
			client.exports[key.Path] = now
		}
	}
	return nil
}

// clientAccess answers what clients may still reach, in exports of the engine and in entries that
// another program has written.
type clientAccess struct{ *Engine }

// ToClient implements nfsd.Exported.
func (r clientAccess) ToClient(addr netip.Addr) (bool, error) {
	r.mu.Lock()
	client := r.clients[addr] != nil
	r.mu.Unlock()
	if client {
		return true, nil
	}
	cached, err := rpccache.Exports(r.channels.root)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(cached, func(entry rpccache.CachedExport) bool {
		return entry.Positive && !entry.PseudoRoot && entry.Domain == addr.String() && !deleted(entry.Path)
	}), nil
}

// ShutOut implements nfsd.Exported. It removes the address from its auth domain, so that the server
// refuses all its requests. letIn puts the address back, with no exports. Then a client that still
// has a mount gets ESTALE, and does not reconnect for each request.
func (r clientAccess) ShutOut(addr netip.Addr) (letIn func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, nfs.ErrClosed
	}
	if r.clients[addr] != nil || r.shutOut[addr] != nil {
		return nil, nil // published or fenced in the meantime
	}
	if err := r.send(clientMessage(addr, "", r.now().Add(revokedTTL).Unix())); err != nil {
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
			// The kernel sends an upcall for what it does not accept.
			_ = r.send(clientMessage(addr, addr.String(), r.now().Add(revokedTTL).Unix()))
		}
	}, nil
}

// lockFor locks mu, after the end of a fence of the client.
func (e *Engine) lockFor(addr netip.Addr) {
	e.mu.Lock()
	for ended := e.shutOut[addr]; ended != nil; ended = e.shutOut[addr] {
		e.mu.Unlock()
		<-ended // takes at most nfsd.FenceTime
		e.mu.Lock()
	}
}

// AtPath implements nfsd.Exported.
func (r clientAccess) AtPath(path string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.clients.exported(path)
}
