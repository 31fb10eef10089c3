package nfsd

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// FenceTime bounds a fence, and a wait for requests of clients that keep an export. Both wait for a
// disk at most.
const FenceTime = 30 * time.Second

// Exported answers what clients may reach after a revocation, through exports of any program on the
// host, and shuts out clients without exports.
type Exported interface {
	// ToClient reports whether an export may let the client in.
	ToClient(client netip.Addr) (bool, error)

	// AtPath reports whether any client may be let in to the directory.
	AtPath(path string) bool

	// ShutOut makes the server refuse all requests of a client without exports until letIn is
	// called. Nothing is exported to the client in between. letIn is nil if the client is not shut
	// out, because it got an export since ToClient or because the server may still answer.
	ShutOut(client netip.Addr) (letIn func(), err error)
}

// Fence ends the requests of clients through exports that were just revoked. When it returns
// without an error, no request and no copy of theirs that began before the call is in progress. The
// error is nfs.ErrUnavailable if that takes longer than FenceTime, or than ctx allows.
//
//  1. It shuts out the clients that no export lets in, until the end of step 3. Step 3 needs this:
//     a client that is expired while the server answers it may create one session after the other,
//     and the server keeps 256 KiB for each (measured on Linux 7.2). force_expire_client in
//     fs/nfsd/nfs4state.c waits until the client has no request in progress.
//  2. It waits for earlier requests.
//  3. It expires the clients of step 1: the server drops their open files, locks and delegations,
//     so that they block no other client, and their copies. This takes time in proportion to the
//     client's open files, and holds no lock of the whole host.
//  4. It waits for copies of the other clients.
//  5. It closes the files that are still open in a directory that is exported to no client, with
//     UNLOCK_EXPORT. These are files of clients that other exports let in. The kernel takes time
//     in the square of the number of a client's open files for this, without a bound, and holds
//     nfsd_mutex, for which step 2 of other fences waits.
//
// Steps 1, 3 and 5 are for locks and space. Their failures are logged, and end when the client's
// lease expires.
func (s *Server) Fence(ctx context.Context, revoked []nfs.Export, exported Exported, logger *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, FenceTime)
	defer cancel()
	// Each client that has a file open through a revoked export has a record: it is created before
	// the first open.
	records, err := s.clients()
	if err != nil {
		logger.Warn("failed to list NFS clients: locks of revoked clients stay until their leases expire", "error", err)
		records = nil
	}
	lost, err := s.shutOut(revoked, records, exported)
	defer lost.letIn()
	if err != nil {
		logger.Warn("failed to find the remaining exports of a revoked client: its locks stay until its lease expires", "error", err)
	}
	clients, all := clientsOf(revoked)
	if err := s.waitForRequests(ctx, clients); err != nil {
		return err
	}
	expired, err := s.expire(ctx, lost.addrs)
	if err != nil {
		logger.Warn("failed to expire revoked clients: their locks stay until their leases expire", "clients", lost.addrs, "error", err)
	}
	lost.letIn()
	clients = slices.DeleteFunc(clients, func(addr netip.Addr) bool { return slices.Contains(expired, addr) })
	if all || len(clients) > 0 { // the copies of an expired client have ended
		if err := s.waitForCopies(ctx, clients); err != nil {
			return err
		}
	}
	for _, path := range stillOpen(revoked, records, expired, exported) {
		err := s.UnlockExport(path)
		if err != nil && !errors.Is(err, nfs.ErrUnsupported) {
			logger.Warn("failed to close files of a revoked export: they keep locks and space", "path", path, "error", err)
		}
	}
	return nil
}

// clientsOf returns the exports' clients. It returns none, and all, if an export is to more than
// one address.
func clientsOf(exports []nfs.Export) (clients []netip.Addr, all bool) {
	for _, export := range exports {
		if export.Spec != "" {
			return nil, true
		}
		clients = append(clients, export.Client.Unmap())
	}
	return clients, false
}

// lostClients are the clients that were shut out.
type lostClients struct {
	addrs  []netip.Addr
	letIns []func()
}

// letIn can be called twice.
func (l *lostClients) letIn() {
	for _, letIn := range l.letIns {
		letIn()
	}
	l.letIns = nil
}

// shutOut shuts out the clients with a record that no export lets in. With an error it returns the
// clients that it has shut out.
func (s *Server) shutOut(revoked []nfs.Export, records []client, exported Exported) (*lostClients, error) {
	lost := &lostClients{}
	decided := map[netip.Addr]bool{}
	for _, export := range revoked {
		addr := export.Client.Unmap()
		known := slices.ContainsFunc(records, func(c client) bool { return c.addr == addr })
		if !known || decided[addr] {
			continue
		}
		decided[addr] = true
		reached, err := s.mayBeReached(addr, records, exported)
		if err != nil {
			return lost, err
		}
		if reached {
			continue
		}
		letIn, err := exported.ShutOut(addr)
		if err != nil {
			return lost, err
		}
		if letIn != nil {
			lost.addrs = append(lost.addrs, addr)
			lost.letIns = append(lost.letIns, letIn)
		}
	}
	return lost, nil
}

// mayBeReached reports whether the client at addr may have files open through a remaining export,
// to addr or to another of the client's addresses. A client can use several addresses with one
// session (RFC 8881, 2.10.5), and the server shows only the first. So each connected address that
// has an export and no client record may be another address of the client.
func (s *Server) mayBeReached(addr netip.Addr, records []client, exported Exported) (bool, error) {
	reached, err := exported.ToClient(addr)
	if err != nil || reached {
		return reached, err
	}
	connected, err := s.connected()
	if err != nil {
		return false, err
	}
	for _, other := range connected {
		if slices.ContainsFunc(records, func(c client) bool { return c.addr == other }) {
			continue
		}
		reached, err := exported.ToClient(other)
		if err != nil || reached {
			return reached, err
		}
	}
	return false, nil
}

// stillOpen returns the revoked directories that are exported to no client, and in which clients
// that the server has not expired may have files open.
func stillOpen(revoked []nfs.Export, records []client, expired []netip.Addr, exported Exported) (paths []string) {
	for _, export := range revoked {
		addr := export.Client.Unmap()
		known := slices.ContainsFunc(records, func(c client) bool { return c.addr == addr })
		open := export.Spec != "" || known && !slices.Contains(expired, addr)
		if open && !exported.AtPath(export.Path) && !slices.Contains(paths, export.Path) {
			paths = append(paths, export.Path)
		}
	}
	return paths
}
