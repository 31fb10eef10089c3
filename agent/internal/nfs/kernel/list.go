package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/rpccache"
)

// List implements nfs.Exporter. It merges the kernel's cache with the exports of the engine.
func (e *Engine) List(ctx context.Context) ([]nfs.Export, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// The kernel's list is long, so it is read without the lock. An entry that the engine does not
	// have may have been revoked since. Only then the list is read again, with the lock.
	cached, err := rpccache.Exports(e.channels.root)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, nfs.ErrClosed
	}
	all, differ := e.compare(cached)
	if !differ {
		return all, nil
	}
	cached, err = rpccache.Exports(e.channels.root)
	if err != nil {
		return nil, err
	}
	all, _ = e.compare(cached)
	return all, nil
}

// Roots implements nfs.Exporter. It reads the kernel's cache, which other programs can write too.
// Exports in the table of nfs-utils have no effect here.
func (e *Engine) Roots(context.Context) ([]nfs.Export, error) {
	text, err := os.ReadFile(filepath.Join(e.channels.root, cacheNames[cacheExport], "content"))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", nfs.ErrUnavailable, err)
	}
	cached, err := rpccache.ParseExports(rpccache.RootLines(text))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", nfs.ErrUnavailable, err)
	}
	exports := make([]nfs.Export, len(cached))
	for i, entry := range cached {
		exports[i] = nfs.Export{Path: entry.Path, Spec: entry.Domain, Options: entry.Options}
	}
	return exports, nil
}

// compare merges the kernel's entries with the exports of the engine, and reports whether they
// differ. Entries that differ become stale: publishing pushes them again.
func (e *Engine) compare(cached []rpccache.CachedExport) (exports []nfs.Export, differ bool) {
	all := map[nfs.Key]nfs.Export{}
	for _, client := range e.clients {
		for _, export := range client.exports {
			all[export.Key()] = export.Export
		}
	}
	for _, entry := range cached {
		if !entry.Positive || entry.PseudoRoot || !nfs.Below(e.config.BasePath, entry.Path) || deleted(entry.Path) {
			continue
		}
		export := nfs.Export{Path: entry.Path, FSID: entry.FSID, Options: entry.Options}
		if addr, err := netip.ParseAddr(entry.Domain); err == nil {
			export.Client = addr.Unmap()
		} else {
			export.Spec = entry.Domain
		}
		// The kernel does not show transport security.
		export.Options.XprtSec = all[export.Key()].Options.XprtSec
		if all[export.Key()] == export {
			continue
		}
		differ = true
		e.markStale(export.Key())
		all[export.Key()] = export
	}
	exports = make([]nfs.Export, 0, len(all))
	for _, export := range all {
		exports = append(exports, export)
	}
	return exports, differ
}

// markStale makes the next publish push the export again.
func (e *Engine) markStale(key nfs.Key) {
	client := e.clients[key.Client]
	if client == nil {
		return
	}
	if export, ok := client.exports[key.Path]; ok {
		export.pushed = false
		client.exports[key.Path] = export
	}
}

// deleted reports whether the kernel's path is that of a deleted directory, whose export it keeps
// for a while (d_path in fs/d_path.c).
func deleted(path string) bool {
	if !strings.HasSuffix(path, " (deleted)") {
		return false
	}
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}
