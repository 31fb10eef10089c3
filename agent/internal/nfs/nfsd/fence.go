package nfsd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// FenceTime bounds Fence, and a wait for requests of clients that keep an export: both wait for a disk at most.
const FenceTime = 30 * time.Second

// Exported tells what clients may reach after a revocation, in exports of any program on the host.
type Exported interface {
	// ToClient reports whether an export may let the client in.
	ToClient(client netip.Addr) (bool, error)

	// AtPath reports whether a client may be let in to the directory.
	AtPath(path string) bool

	// ShutOut makes the server refuse all requests of a client that no export lets in, until letIn is called: nothing
	// is exported to the client meanwhile. It reports false where an export has come since ToClient, or where the
	// server may still answer.
	ShutOut(client netip.Addr) (letIn func(), shut bool, err error)
}

// Fence ends what clients have under way through exports that were just revoked. When it returns without an error, no
// request and no copy of theirs that began before the call is under way any more. The error is nfs.ErrUnavailable where
// that takes longer than FenceTime, or than ctx allows.
//
//  1. A client that no export lets in any more is shut out of the server. The next steps rely on that: a client that is
//     expired while the server answers it may begin one session after the other, and the server keeps 256 KiB for each
//     (measured on Linux 7.2; force_expire_client in fs/nfsd/nfs4state.c waits until it has no request under way).
//  2. Requests that the server let in before are waited for.
//  3. The clients of step 1 are expired: the server forgets their open files, locks and delegations, so that they hold up
//     no other client, and their copies. This takes time in proportion to what a client has open, and holds no lock of
//     the whole host.
//  4. Copies are waited for.
//  5. The files that are still open in a directory that is exported to no client are closed, with UNLOCK_EXPORT: those of
//     clients that other exports let in. The kernel takes time in the square of the number of a client's open files for
//     that, and holds nfsd_mutex, for which others wait in step 2.
//
// Steps 1, 3 and 5 are for locks and space. What fails there is logged, and ends when the client's lease does.
func (s *Server) Fence(ctx context.Context, revoked []nfs.Export, exported Exported, logger *slog.Logger) error {
	if !s.Runs() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, FenceTime)
	defer cancel()
	lost, left, err := s.shutOut(revoked, exported)
	defer lost.letIn()
	if err != nil {
		logger.Warn("failed to find out what a revoked client may still reach: its locks stay until its lease ends", "error", err)
	}
	clients, err := s.waitForRequestsOf(ctx, revoked)
	if err != nil {
		return err
	}
	if err := lost.expire(ctx); err != nil {
		logger.Warn("failed to expire a revoked client: its locks stay until its lease ends", "error", err)
	}
	if err := s.waitForCopies(ctx, clients); err != nil {
		return err
	}
	for _, path := range left {
		err := s.UnlockExport(path)
		if err != nil && !errors.Is(err, nfs.ErrUnsupported) {
			logger.Warn("failed to close the files of a revoked export: they hold on to locks and space", "path", path, "error", err)
		}
	}
	return nil
}

// DrainExports is Drain of the exports' clients, of all clients where an export is to more than one address.
func (s *Server) DrainExports(ctx context.Context, exports []nfs.Export) error {
	if !s.Runs() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, FenceTime)
	defer cancel()
	clients, err := s.waitForRequestsOf(ctx, exports)
	if err != nil {
		return err
	}
	return s.waitForCopies(ctx, clients)
}

// waitForRequestsOf is waitForRequests of the exports' clients, which it returns: none, which is all, where an export is
// to more than one address.
func (s *Server) waitForRequestsOf(ctx context.Context, exports []nfs.Export) (clients []netip.Addr, err error) {
	for _, export := range exports {
		clients = append(clients, export.Client)
	}
	if slices.ContainsFunc(exports, func(e nfs.Export) bool { return e.Spec != "" }) {
		clients = nil
	}
	return clients, s.waitForRequests(ctx, clients)
}

// lostClients are clients that nothing is exported to, and that the server answers no more.
type lostClients struct {
	records []client
	doors   []func() // that let them in again
}

func (l lostClients) letIn() {
	for _, open := range l.doors {
		open()
	}
}

// shutOut shuts out the clients that no export lets in any more. It also returns the directories that are exported to no
// client, and in which others of the clients may have files open.
func (s *Server) shutOut(revoked []nfs.Export, exported Exported) (lost lostClients, left []string, err error) {
	records, err := s.clients()
	if err != nil {
		return lost, nil, err
	}
	out := map[netip.Addr]bool{} // of the clients that the server knows
	for _, record := range records {
		if !slices.ContainsFunc(revoked, func(e nfs.Export) bool { return e.Client.Unmap() == record.addr }) {
			continue
		}
		if _, decided := out[record.addr]; !decided {
			reached, err := s.mayBeReached(record.addr, records, exported)
			if err != nil {
				return lost, nil, err
			}
			if !reached {
				letIn, shut, err := exported.ShutOut(record.addr)
				if err != nil {
					return lost, nil, err
				}
				lost.doors = append(lost.doors, letIn)
				reached = !shut
			}
			out[record.addr] = !reached
		}
		if out[record.addr] {
			lost.records = append(lost.records, record)
		}
	}
	for _, export := range revoked {
		isOut, known := out[export.Client.Unmap()]
		if (export.Spec != "" || known && !isOut) && !exported.AtPath(export.Path) && !slices.Contains(left, export.Path) {
			left = append(left, export.Path)
		}
	}
	return lost, left, nil
}

// mayBeReached reports whether the client at addr may have files open through an export that is left: one to addr, or to
// another of the client's addresses. A client can use several with one session (RFC 8881, 2.10.5), and the server tells
// the first alone. So each address that is connected, has an export and has no client of its own may be another one.
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

// expire returns when the server has forgotten the clients, or with an error when ctx ends first.
func (l lostClients) expire(ctx context.Context) error {
	if len(l.records) == 0 {
		return nil
	}
	done := make(chan error, 1)
	go func() {
		var errs []error
		for _, record := range l.records {
			errs = append(errs, record.expire())
		}
		done <- errors.Join(errs...)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: expiring a client: %w", nfs.ErrUnavailable, ctx.Err())
	}
}
