// Package nfsd reads the state of the kernel's NFS server: its requests, its clients and its
// settings.
package nfsd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// Server is the kernel's NFS server. The nfsd module has to be loaded.
type Server struct {
	procRoot string
	copyTime time.Duration // how long to wait for copies to end

	// Commands that the kernel does not support. The kernel may look for a module at each use of an
	// unknown netlink family, which takes time.
	noRequests, noUnlock atomic.Bool
}

// NewServer takes the mount point of proc.
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
	// drainInterval is the polling interval for requests in progress.
	drainInterval = time.Millisecond

	// threadsTime is how long to wait for every thread to have been idle once, on kernels that do
	// not list requests. On a busy server some threads are never seen idle, although they have
	// started many other requests since. It does not apply to a thread that waits for a disk all
	// the time.
	threadsTime = time.Second

	serverThread = "nfsd"
)

// DrainExports waits for the requests of the exports' clients that began before the call, and for
// those of all clients if an export is to more than one address. A revocation applies to later
// requests. An earlier request may still write, and its copy may run after its reply.
//
// Linux 6.7 and newer list their requests. On older kernels DrainExports waits until each server
// thread has been idle once, but at most one second for threads that do not wait for a disk all the
// time. The error is nfs.ErrUnavailable if ctx, or FenceTime, ends first.
//
// DrainExports also waits for copies of other clients. After copyTime it expires the clients, which
// then lose their locks.
func (s *Server) DrainExports(ctx context.Context, exports []nfs.Export) error {
	ctx, cancel := context.WithTimeout(ctx, FenceTime)
	defer cancel()
	clients, _ := clientsOf(exports)
	if err := s.waitForRequests(ctx, clients); err != nil {
		return err
	}
	return s.waitForCopies(ctx, clients)
}

func (s *Server) waitForRequests(ctx context.Context, clients []netip.Addr) error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("%w: read the clock: %w", nfs.ErrUnavailable, err)
	}
	began := time.Duration(now.Nano())
	pending, err := s.hasRequests(clients, began)
	if errors.Is(err, nfs.ErrUnsupported) {
		return waitForThreads(ctx, s.procRoot)
	}
	for ; err == nil && pending; pending, err = s.hasRequests(clients, began) {
		if err := Pause(ctx, drainInterval); err != nil {
			return fmt.Errorf("%w: requests of a revoked client are still in progress: %w", nfs.ErrUnavailable, err)
		}
	}
	return err
}

// Pause waits for the interval, or until ctx ends.
func Pause(ctx context.Context, interval time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(interval):
		return nil
	}
}

// hasRequests reports whether a client, or any one if there are none, has a request that began
// before.
func (s *Server) hasRequests(clients []netip.Addr, before time.Duration) (bool, error) {
	requests, err := s.Requests()
	if err != nil {
		return false, err
	}
	for _, request := range requests {
		if request.Began < before && (len(clients) == 0 || slices.Contains(clients, request.Client)) {
			return true, nil
		}
	}
	return false, nil
}

// waitForThreads waits until each server thread was idle once, or did not wait for a disk
// threadsTime ago.
func waitForThreads(ctx context.Context, procRoot string) error {
	found, err := ProcessesNamed(procRoot, serverThread)
	if err != nil {
		return err
	}
	busy := map[string]time.Time{} // time when it first did not wait for a disk, or zero
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
		if err := Pause(ctx, drainInterval); err != nil {
			return fmt.Errorf("%w: requests may still be in progress: %w", nfs.ErrUnavailable, err)
		}
	}
}

// state of a server thread.
type state int

const (
	idle state = iota // waits for requests, or has ended
	running
	waiting // for a disk
)

// stateOf returns the state from the kind of sleep: interruptible or idle while the thread waits
// for requests, uninterruptible while it works on a file (proc_pid_stat(5), state).
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
