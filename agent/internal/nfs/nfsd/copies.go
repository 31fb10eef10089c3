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
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

const (
	// copyThread is the name of a kernel thread that copies for a client after the reply
	// (nfsd4_copy in fs/nfsd/nfs4proc.c). It has both files open and is not authorized again.
	copyThread = "copy thread"

	// copyTime is how long to wait for copies to end. Later they are ended by expiring their
	// client, which loses its locks. The kernel does not show the client of a copy.
	copyTime = 20 * time.Second

	// copyInterval is the polling interval.
	copyInterval = 10 * time.Millisecond

	opCopy = 60 // RFC 7862 section 15
)

// waitForCopies waits for the copies that were in progress at the call. After copyTime it expires
// the clients. The error is nfs.ErrUnavailable if that cannot have ended all of them.
func (s *Server) waitForCopies(ctx context.Context, clients []netip.Addr) error {
	if s.neverCopied() {
		return nil
	}
	copies, err := ProcessesNamed(s.procRoot, copyThread)
	if err != nil {
		return err
	}
	patience, cancel := context.WithTimeout(ctx, s.copyTime)
	defer cancel()
	for len(copies) > 0 {
		err := Pause(patience, copyInterval)
		if err != nil && !errors.Is(ctx.Err(), context.Canceled) {
			err = s.endCopies(ctx, clients)
			copies = nil
		}
		if err != nil {
			return fmt.Errorf("%w: the NFS server is still copying, possibly for a revoked client: %w", nfs.ErrUnavailable, err)
		}
		copies = s.stillCopying(copies)
	}
	return nil
}

// neverCopied reports whether the server has not copied for any client since it was loaded, as on
// most hosts. It saves each revocation a scan of all processes. The line contains the number of
// executions of each NFSv4 operation.
func (s *Server) neverCopied() bool {
	text, err := os.ReadFile(filepath.Join(s.procRoot, "net/rpc/nfsd"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 2+opCopy && fields[0] == "proc4ops" {
			return fields[2+opCopy] == "0"
		}
	}
	return false
}

func (s *Server) stillCopying(copies []string) []string {
	return slices.DeleteFunc(copies, func(thread string) bool {
		comm, err := os.ReadFile(filepath.Join(s.procRoot, thread, "comm"))
		return err != nil || string(comm) != copyThread+"\n"
	})
}

// endCopies ends the copies of the clients by expiring them (nfsd4_shutdown_copy in
// fs/nfsd/nfs4proc.c). It fails for a client that the server knows by another address.
func (s *Server) endCopies(ctx context.Context, clients []netip.Addr) error {
	if len(clients) == 0 {
		return errors.New("it may be for any client")
	}
	expired, err := s.expire(ctx, clients)
	if err != nil {
		return err
	}
	for _, addr := range clients {
		if !slices.Contains(expired, addr) {
			return fmt.Errorf("it has no client at %s", addr)
		}
	}
	return nil
}
