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

// FenceTime bounds a fence, and a wait for requests of clients that keep an export: both wait for a
// disk at most.
const FenceTime = 30 * time.Second

// Exported tells what clients may reach after a revocation, in exports of any program on the host,
// and shuts out those that may reach nothing.
type Exported interface {
	// ToClient reports whether an export may let the client in.
	ToClient(client netip.Addr) (bool, error)

	// AtPath reports whether a client may be let in to the directory.
	AtPath(path string) bool

	// ShutOut makes the server refuse all requests of a client that no export lets in, until letIn
	// is called: nothing is exported to the client meanwhile. letIn is nil where the client is not
	// shut out, because an export has come since ToClient or the server may still answer.
	ShutOut(client netip.Addr) (letIn func(), err error)
}

// Fence ends what clients have under way through exports that were just revoked. When it returns
// without an error, no request and no copy of theirs that began before the call is under way any
// more. The error is nfs.ErrUnavailable where that takes longer than FenceTime, or than ctx allows.
//
//  1. A client that no export lets in any more is shut out of the server until step 3 has ended,
//     which relies on that: a client that is expired while the server answers it may begin one
//     session after the other, and the server keeps 256 KiB for each (measured on Linux 7.2;
//     force_expire_client in fs/nfsd/nfs4state.c waits until it has no request under way).
//  2. Requests that the server let in before are waited for.
//  3. The clients of step 1 are expired: the server forgets their open files, locks and
//     delegations, so that they hold up no other client, and their copies. This takes time in
//     proportion to what a client has open, and holds no lock of the whole host.
//  4. Copies of the other clients are waited for.
//  5. The files that are still open in a directory that is exported to no client are closed, with
//     UNLOCK_EXPORT: those of clients that other exports let in. The kernel takes time in the square
//     of the number of a client's open files for that, without a bound, and holds nfsd_mutex, for
//     which others wait in step 2.
//
// Steps 1, 3 and 5 are for locks and space. What fails there is logged, and ends when the client's
// lease does.
func (s *Server) Fence(ctx context.Context, revoked []nfs.Export, exported Exported, logger *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, FenceTime)
	defer cancel()
	// Each client that has a file open through a revoked export has a record by now: a request that
	// opens a file follows the one that makes the record.
	records, err := s.clients()
	if err != nil {
		logger.Warn("failed to list clients: the locks of revoked ones stay until their leases end", "error", err)
		records = nil
	}
	lost, err := s.shutOut(revoked, records, exported)
	defer lost.letIn()
	if err != nil {
		logger.Warn("failed to find out what a revoked client may still reach: its locks stay until its lease ends", "error", err)
	}
	clients, all := clientsOf(revoked)
	if err := s.waitForRequests(ctx, clients); err != nil {
		return err
	}
	expired, err := s.expire(ctx, lost.addrs)
	if err != nil {
		logger.Warn("failed to expire revoked clients: their locks stay until their leases end", "clients", lost.addrs, "error", err)
	}
	lost.letIn()
	clients = slices.DeleteFunc(clients, func(addr netip.Addr) bool { return slices.Contains(expired, addr.Unmap()) })
	if all || len(clients) > 0 { // the copies of an expired client have ended
		if err := s.waitForCopies(ctx, clients); err != nil {
			return err
		}
	}
	for _, path := range stillOpen(revoked, records, expired, exported) {
		err := s.UnlockExport(path)
		if err != nil && !errors.Is(err, nfs.ErrUnsupported) {
			logger.Warn("failed to close the files of a revoked export: they hold on to locks and space", "path", path, "error", err)
		}
	}
	return nil
}

// DrainExports is Drain of the exports' clients, of all clients where an export is to more than one
// address.
func (s *Server) DrainExports(ctx context.Context, exports []nfs.Export) error {
	ctx, cancel := context.WithTimeout(ctx, FenceTime)
	defer cancel()
	clients, _ := clientsOf(exports)
	return s.Drain(ctx, clients...)
}

// clientsOf are the exports' clients; none, and all, where an export is to more than one address.
func clientsOf(exports []nfs.Export) (clients []netip.Addr, all bool) {
	for _, export := range exports {
		if export.Spec != "" {
			return nil, true
		}
		clients = append(clients, export.Client)
	}
	return clients, false
}

// lostClients are clients that nothing is exported to, and that the server answers no more.
type lostClients struct {
	addrs []netip.Addr
	doors []func() // that let them in again
}

// letIn can be called twice.
func (l *lostClients) letIn() {
	for _, open := range l.doors {
		open()
	}
	l.doors = nil
}

// shutOut shuts out the clients with a record that no export lets in any more. With an error it
// returns those that it has shut out.
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
			lost.doors = append(lost.doors, letIn)
		}
	}
	return lost, nil
}

// mayBeReached reports whether the client at addr may have files open through an export that is
// left: one to addr, or to another of the client's addresses. A client can use several with one
// session (RFC 8881, 2.10.5), and the server tells the first alone. So each address that is
// connected, has an export and has no client record may be another one.
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

// stillOpen are the revoked directories that are exported to no client, and in which clients that
// the server has not expired may have files open.
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
