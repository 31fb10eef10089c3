package exportfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/rpccache"
)

// fenceTime bounds a fence: requests of a revoked client wait for a disk at most.
const fenceTime = 30 * time.Second

// fence returns when the kernel lets none of the clients in any more. exportfs
// -u flushes the kernel's caches, but rpc.mountd may have looked at the old
// table just before and answer just after; that answer would hold for half an
// hour. So the kernel's cache is looked at, and flushed again where needed.
func (e *Engine) fence(ctx context.Context, revoked []nfs.Export, access access) error {
	ctx, cancel := context.WithTimeout(ctx, fenceTime)
	defer cancel()
	for calm := 0; calm < 2; {
		open, err := e.stillOpen(revoked, access)
		if err != nil {
			return err
		}
		if open {
			calm = 0
			if _, err := e.run(ctx, "-f"); err != nil {
				return fmt.Errorf("fencing: %w", err)
			}
		} else {
			calm++
		}
		if calm == 2 {
			break
		}
		// rpc.mountd takes milliseconds from reading its table to answering.
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%w: the kernel still lets a revoked client in: %w", nfs.ErrUnavailable, ctx.Err())
		}
	}
	return e.drain(ctx, revoked)
}

// drain waits for requests that were let in just before.
func (e *Engine) drain(ctx context.Context, revoked []nfs.Export) error {
	if !e.server.Runs() {
		return nil
	}
	var clients []netip.Addr
	for _, export := range revoked {
		if export.Spec != "" {
			return e.server.Drain(ctx)
		}
		clients = append(clients, export.Client)
	}
	return e.server.Drain(ctx, clients...)
}

// stillOpen reports whether the kernel has a cached answer that lets one of the
// clients of a revoked export in, with the access given: an export, or a file
// system ID that leads to one. Both hold for half an hour, and a handle of an old
// ID needs the second.
func (e *Engine) stillOpen(revoked []nfs.Export, access access) (bool, error) {
	closed := map[string]map[string]bool{}
	for _, export := range revoked {
		if closed[export.Path] == nil {
			closed[export.Path] = map[string]bool{}
		}
		closed[export.Path][clientName(export)] = true
	}
	exports, err := readCache(e.config.ProcRoot, "nfsd.export", rpccache.ParseExports)
	if err != nil {
		return false, err
	}
	for _, entry := range exports {
		if access == writeAccess && entry.Options.ReadOnly {
			continue
		}
		if entry.Positive && !entry.PseudoRoot && matches(entry.Domain, closed[entry.Path]) {
			return true, nil
		}
	}
	if access == writeAccess {
		return false, nil // the handles stay good, for reading
	}
	handles, err := readCache(e.config.ProcRoot, "nfsd.fh", rpccache.ParseHandles)
	if err != nil {
		return false, err
	}
	for _, entry := range handles {
		if matches(entry.Domain, closed[entry.Path]) {
			return true, nil
		}
	}
	return false, nil
}

// readCache reads one of the kernel's caches; nothing where the kernel has no
// NFS server, which then lets no client in.
func readCache[T any](procRoot, cache string, parse func(io.Reader) ([]T, error)) ([]T, error) {
	file, err := os.Open(filepath.Join(procRoot, "net/rpc", cache, "content"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", nfs.ErrUnavailable, err)
	}
	defer func() { _ = file.Close() }() // only read
	entries, err := parse(file)
	if err != nil {
		return nil, fmt.Errorf("%w: reading %s: %w", nfs.ErrUnavailable, cache, err)
	}
	return entries, nil
}

// matches reports whether one of the names is of the domain. rpc.mountd names a
// client by all that it matches: "10.0.0.1,10.0.0.0/8". With cache-use-ipaddr,
// or long netgroups, it is "$10.0.0.1" whatever that matches
// (support/export/cache.c of nfs-utils).
func matches(domain string, names map[string]bool) bool {
	if len(names) == 0 {
		return false
	}
	for name := range strings.SplitSeq(strings.TrimPrefix(domain, "$"), ",") {
		if names[name] {
			return true
		}
	}
	return false
}

func clientName(export nfs.Export) string {
	if export.Spec != "" {
		return export.Spec
	}
	return export.Client.String()
}
