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
	"strconv"
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

	// What the kernel turned out not to know. It may look for a module each
	// time that it is asked for an unknown netlink family, which takes a while.
	noRequests, noUnlock atomic.Bool

	buffers sync.Pool // of *[bufferSize]byte
}

// NewServer takes where proc is mounted.
func NewServer(procRoot string) *Server { return &Server{procRoot: procRoot} }

// Runs reports whether the server has threads.
func (s *Server) Runs() bool {
	threads, err := os.ReadFile(filepath.Join(s.procRoot, "fs/nfsd/threads"))
	return err == nil && strings.TrimSpace(string(threads)) != "0"
}

const (
	// drainInterval is how often the requests under way are looked at.
	drainInterval = time.Millisecond

	// threadsTime is how long to wait for every thread to have been idle once,
	// on kernels that do not tell their requests. On a busy server some are
	// never seen idle, though they have begun many other requests meanwhile.
	threadsTime = time.Second
)

// Drain returns when none of the clients has a request under way that began
// before the call. A revocation holds for requests that begin after it; one that
// passed the check just before may still be writing. No clients means all.
//
// Linux 6.7 and newer tell their requests. On older kernels Drain waits until
// each server thread has been idle once, but at most for a second. The error is
// nfs.ErrUnavailable when ctx ends first.
func (s *Server) Drain(ctx context.Context, clients ...netip.Addr) error {
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
		if err := pause(ctx); err != nil {
			return fmt.Errorf("%w: requests of a revoked client are still under way: %w", nfs.ErrUnavailable, err)
		}
	}
	return err
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(drainInterval):
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

// waitForThreads returns when each server thread has been seen idle.
func waitForThreads(ctx context.Context, procRoot string) error {
	busy, err := serverThreads(procRoot)
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(threadsTime); len(busy) > 0 && time.Now().Before(deadline); {
		still := busy[:0]
		for _, thread := range busy {
			if !idle(procRoot, thread) {
				still = append(still, thread)
			}
		}
		if busy = still; len(busy) == 0 {
			break
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("%w: requests may still be under way: %w", nfs.ErrUnavailable, err)
		}
	}
	return nil
}

// serverThreads lists the kernel's nfsd threads.
func serverThreads(procRoot string) ([]string, error) {
	processes, err := os.ReadDir(procRoot)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", nfs.ErrUnavailable, err)
	}
	var threads []string
	for _, process := range processes {
		if _, err := strconv.Atoi(process.Name()); err != nil {
			continue
		}
		comm, err := os.ReadFile(filepath.Join(procRoot, process.Name(), "comm"))
		if err == nil && string(comm) == "nfsd\n" {
			threads = append(threads, process.Name())
		}
	}
	return threads, nil
}

// idle reports whether a thread waits for requests: then it sleeps
// interruptibly or idly, while it is on the processor or sleeps uninterruptibly
// when it works on a file (proc_pid_stat(5), state).
func idle(procRoot, thread string) bool {
	stat, err := os.ReadFile(filepath.Join(procRoot, thread, "stat"))
	if err != nil {
		return true // it has ended
	}
	_, rest, ok := strings.Cut(string(stat), ") ")
	return ok && (rest[0] == 'S' || rest[0] == 'I')
}
