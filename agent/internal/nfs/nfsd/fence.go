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
}

// Fence ends what clients have under way through exports that were just revoked. When it returns without an error, no
// request and no copy of theirs that began before the call is under way any more. The error is nfs.ErrUnavailable where
// that takes longer than FenceTime, or than ctx allows.
//
//  1. A client that no export lets in any more is expired: the server forgets its open files, locks and delegations, so
//     that they hold up no other client, and its copies. This takes time in proportion to what the client has open, and
//     holds no lock of the whole host.
//  2. Requests that the server let in before are waited for, then copies.
//  3. The files that are still open in a directory that is exported to no client are closed, with UNLOCK_EXPORT: those of
//     clients that other exports let in. The kernel takes time in the square of the number of a client's open files for
//     that, and holds nfsd_mutex, for which others wait in step 2.
//
// Steps 1 and 3 are for locks and space. What fails there is logged, and ends when the client's lease does.
func (s *Server) Fence(ctx context.Context, revoked []nfs.Export, exported Exported, logger *slog.Logger) error {
	if !s.Runs() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, FenceTime)
	defer cancel()
	left, err := s.expireShutOut(ctx, revoked, exported)
	if err != nil {
		logger.Warn("failed to expire a revoked client: its locks stay until its lease ends", "error", err)
	}
	if err := s.DrainExports(ctx, revoked); err != nil {
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
	var clients []netip.Addr
	for _, export := range exports {
		if export.Spec != "" {
			return s.Drain(ctx)
		}
		clients = append(clients, export.Client)
	}
	return s.Drain(ctx, clients...)
}

// expireShutOut expires the clients that no export lets in any more. It returns the directories that are exported to no
// client, and in which others of the clients may have files open.
func (s *Server) expireShutOut(ctx context.Context, revoked []nfs.Export, exported Exported) (left []string, err error) {
	records, err := s.clients()
	if err != nil {
		return nil, err
	}
	shutOut := map[netip.Addr]bool{} // of the clients that the server knows
	for _, record := range records {
		if _, decided := shutOut[record.addr]; decided || !slices.ContainsFunc(revoked, func(e nfs.Export) bool { return e.Client.Unmap() == record.addr }) {
			continue
		}
		reached, err := s.mayBeReached(record.addr, records, exported)
		if err != nil {
			return nil, err
		}
		shutOut[record.addr] = !reached
	}
	for _, export := range revoked {
		out, known := shutOut[export.Client.Unmap()]
		if (export.Spec != "" || known && !out) && !exported.AtPath(export.Path) && !slices.Contains(left, export.Path) {
			left = append(left, export.Path)
		}
	}
	records = slices.DeleteFunc(records, func(c client) bool { return !shutOut[c.addr] })
	return left, expire(ctx, records)
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

// expire returns when the server has forgotten the clients, or with an error when ctx ends first. It waits for requests of
// theirs that are under way (force_expire_client in fs/nfsd/nfs4state.c).
func expire(ctx context.Context, records []client) error {
	if len(records) == 0 {
		return nil
	}
	done := make(chan error, 1)
	go func() {
		var errs []error
		for _, record := range records {
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
