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

// List implements nfs.Exporter. It is what the kernel has in its cache, and
// what it would be told if it asked.
func (e *Engine) List(ctx context.Context) ([]nfs.Export, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, nfs.ErrClosed
	}
	cached, err := e.cachedExports()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", nfs.ErrUnavailable, err)
	}
	all := map[nfs.Key]nfs.Export{}
	for _, known := range e.clients {
		for _, export := range known.exports {
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
		all[export.Key()] = export
	}
	exports := make([]nfs.Export, 0, len(all))
	for _, export := range all {
		exports = append(exports, export)
	}
	return exports, nil
}

func (e *Engine) cachedExports() ([]rpccache.CachedExport, error) {
	file, err := os.Open(filepath.Join(e.channels.root, cacheNames[cacheExport], "content"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // only read
	return rpccache.ParseExports(file)
}

// deleted reports whether the kernel's name for a directory is that of one which
// is no more: it remembers the export of it for a while (d_path in fs/d_path.c).
func deleted(path string) bool {
	if !strings.HasSuffix(path, " (deleted)") {
		return false
	}
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}
