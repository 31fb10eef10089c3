package nfsd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

const (
	// copyThread is what the kernel calls a thread that copies for a client which has its answer already (nfsd4_copy in
	// fs/nfsd/nfs4proc.c). It has both files open and is not let in anew.
	copyThread = "copy thread\n"

	// copyTime is how long copies may take to end by themselves. They end with their client, which loses its locks; whose
	// they are the kernel does not tell.
	copyTime = 20 * time.Second

	// copyInterval is how often they are looked at.
	copyInterval = 10 * time.Millisecond

	opCopy = 60 // RFC 7862 section 15
)

// waitForCopies returns when no copy is left that was under way at the call. After copyTime it has the server forget the
// clients. The error is nfs.ErrUnavailable when that cannot have ended what is left.
func (s *Server) waitForCopies(ctx context.Context, clients []netip.Addr) error {
	if s.neverCopied() {
		return nil
	}
	copies, err := threads(s.procRoot, copyThread)
	if err != nil {
		return err
	}
	patience, cancel := context.WithTimeout(ctx, s.copyTime)
	defer cancel()
	for len(copies) > 0 {
		err := pause(patience, copyInterval)
		if err != nil && !errors.Is(ctx.Err(), context.Canceled) {
			err = s.endCopies(ctx, clients)
			copies = nil
		}
		if err != nil {
			return fmt.Errorf("%w: the server still copies, perhaps for a revoked client: %w", nfs.ErrUnavailable, err)
		}
		copies = s.stillCopying(copies)
	}
	return nil
}

// neverCopied reports whether the server has not copied for any client since it was loaded, as on most hosts. It spares
// each revocation a look at every process. The line is of how many times each operation of NFSv4 was done.
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
		return err != nil || string(comm) != copyThread
	})
}

// endCopies returns when no copy of the clients is under way: the server has forgotten them, and with them their copies
// (nfsd4_shutdown_copy in fs/nfsd/nfs4proc.c). One that it knows by another address cannot be told from others.
func (s *Server) endCopies(ctx context.Context, clients []netip.Addr) error {
	if len(clients) == 0 {
		return errors.New("it may be of any client")
	}
	var addrs []netip.Addr
	for _, client := range clients {
		addrs = append(addrs, client.Unmap())
	}
	expired, err := s.expire(ctx, addrs)
	if err != nil {
		return err
	}
	for _, addr := range addrs {
		if !slices.Contains(expired, addr) {
			return fmt.Errorf("it knows no client at %s", addr)
		}
	}
	return nil
}

// threads lists the kernel's threads of that name, as comm has it.
func threads(procRoot, name string) ([]string, error) {
	processes, err := os.ReadDir(procRoot)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", nfs.ErrUnavailable, err)
	}
	var found []string
	for _, process := range processes {
		if _, err := strconv.Atoi(process.Name()); err != nil {
			continue
		}
		comm, err := os.ReadFile(filepath.Join(procRoot, process.Name(), "comm"))
		if err == nil && string(comm) == name {
			found = append(found, process.Name())
		}
	}
	return found, nil
}
