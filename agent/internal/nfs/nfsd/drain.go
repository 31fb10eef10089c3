// Package nfsd asks the running kernel NFS server about its requests and about
// the state that it keeps for clients.
package nfsd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// Server is the kernel's NFS server, of which the nfsd module has to be loaded.
type Server struct {
	procRoot string
	copyTime time.Duration // for copies to end by themselves

	// What the kernel turned out not to know. It may look for a module each
	// time that it is asked for an unknown netlink family, which takes a while.
	noRequests, noUnlock atomic.Bool

	buffers sync.Pool // of *[bufferSize]byte
}

// NewServer takes where proc is mounted.
func NewServer(procRoot string) *Server { return &Server{procRoot: procRoot, copyTime: copyTime} }

// Runs reports whether the server has threads.
func (s *Server) Runs() bool {
	threads, err := os.ReadFile(filepath.Join(s.procRoot, "fs/nfsd/threads"))
	return err == nil && strings.TrimSpace(string(threads)) != "0"
}

// GraceEnded reports whether the server runs and clients can no longer reclaim opens and locks
// (write_v4_end_grace in fs/nfsd/nfsctl.c).
func (s *Server) GraceEnded() bool {
	ended, err := os.ReadFile(filepath.Join(s.procRoot, "fs/nfsd/v4_end_grace"))
	return err == nil && strings.TrimSpace(string(ended)) == "Y" && s.Runs()
}

const (
	// drainInterval is how often the requests under way are looked at.
	drainInterval = time.Millisecond

	// threadsTime is how long to wait for every thread to have been idle once,
	// on kernels that do not tell their requests. On a busy server some are
	// never seen idle, though they have begun many other requests meanwhile.
	// It does not go for one that waits for a disk all the time.
	threadsTime = time.Second

	serverThread = "nfsd\n" // as comm has it
)

// Drain returns when nothing is under way any more for any of the clients that
// began before the call. A revocation holds for requests that begin after it; one
// that passed the check just before may still be writing, and what it had the
// server copy may be copied after its answer. No clients means all.
//
// Linux 6.7 and newer tell their requests. On older kernels Drain waits until
// each server thread has been idle once, but not longer than a second for those
// that do not wait for a disk throughout. The error is nfs.ErrUnavailable when
// ctx ends first.
//
// Copies of other clients are waited for too. They end with their client, so
// after a while the server has to forget the clients, which then lose their locks.
func (s *Server) Drain(ctx context.Context, clients ...netip.Addr) error {
	if err := s.waitForRequests(ctx, clients); err != nil {
		return err
	}
	return s.waitForCopies(ctx, clients)
}

func (s *Server) waitForRequests(ctx context.Context, clients []netip.Addr) error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("%w: reading the clock: %w", nfs.ErrUnavailable, err)
	}
	began := time.Duration(now.Nano())
	under, err := s.requestsUnderWay(clients, began)
	if errors.Is(err, nfs.ErrUnsupported) {
		return waitForThreads(ctx, s.procRoot)
	}
	for ; err == nil && under; under, err = s.requestsUnderWay(clients, began) {
		if err := pause(ctx, drainInterval); err != nil {
			return fmt.Errorf("%w: requests of a revoked client are still under way: %w", nfs.ErrUnavailable, err)
		}
	}
	return err
}

func pause(ctx context.Context, interval time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(interval):
		return nil
	}
}

// requestsUnderWay reports whether a client has a request that began before.
func (s *Server) requestsUnderWay(clients []netip.Addr, before time.Duration) (bool, error) {
	requests, err := s.Requests()
	if err != nil {
		return false, err
	}
	for _, request := range requests {
		if request.Began < before && (len(clients) == 0 || contains(clients, request.Client)) {
			return true, nil
		}
	}
	return false, nil
}

func contains(clients []netip.Addr, client netip.Addr) bool {
	for _, one := range clients {
		if one.Unmap() == client {
			return true
		}
	}
	return false
}

// waitForThreads returns when each server thread has been seen idle, or
// threadsTime ago at something else than waiting for a disk.
func waitForThreads(ctx context.Context, procRoot string) error {
	found, err := threads(procRoot, serverThread)
	if err != nil {
		return err
	}
	busy := map[string]time.Time{} // since when it has not waited for a disk, zero until then
	for _, thread := range found {
		busy[thread] = time.Time{}
	}
	for {
		for thread, moved := range busy {
			now, state := time.Now(), stateOf(procRoot, thread)
			switch {
			case state == idle, !moved.IsZero() && now.Sub(moved) >= threadsTime:
				delete(busy, thread)
			case state == running && moved.IsZero():
				busy[thread] = now
			}
		}
		if len(busy) == 0 {
			return nil
		}
		if err := pause(ctx, drainInterval); err != nil {
			return fmt.Errorf("%w: requests may still be under way: %w", nfs.ErrUnavailable, err)
		}
	}
}

// state is what a server thread does.
type state int

const (
	idle state = iota // waits for requests, or has ended
	running
	waiting // for a disk
)

// stateOf tells by how a thread sleeps: interruptibly or idly when it waits for
// requests, uninterruptibly when it works on a file (proc_pid_stat(5), state).
func stateOf(procRoot, thread string) state {
	stat, err := os.ReadFile(filepath.Join(procRoot, thread, "stat"))
	if err != nil {
		return idle
	}
	switch _, rest, _ := strings.Cut(string(stat), ") "); {
	case strings.HasPrefix(rest, "S"), strings.HasPrefix(rest, "I"):
		return idle
	case strings.HasPrefix(rest, "D"):
		return waiting
	default:
		return running
	}
}
