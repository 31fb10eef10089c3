package exportfs

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/rpccache"
)

// fence waits until the kernel lets none of the clients in and none of their requests is in
// progress.
func (e *Engine) fence(ctx context.Context, revoked []nfs.Export) error {
	if len(revoked) == 0 {
		return nil
	}
	if err := e.shut(ctx, revoked, anyAccess); err != nil {
		return err
	}
	table := sync.OnceValues(func() ([]entry, error) { return e.allExports(ctx) })
	return e.server.Fence(ctx, revoked, clientAccess{e.wanted, table, e.config.ProcRoot}, e.config.Logger)
}

// shut waits until the kernel has no cached entry that gives one of the clients the access.
// `exportfs -u` flushes the kernel's caches, but rpc.mountd may have read the old table just before
// and reply just after. That entry would last half an hour. So shut reads the kernel's cache, and
// flushes it again if necessary.
func (e *Engine) shut(ctx context.Context, revoked []nfs.Export, access access) error {
	ctx, cancel := context.WithTimeout(ctx, nfsd.FenceTime)
	defer cancel()
	for calm := 0; calm < 2; {
		open, err := e.stillOpen(revoked, access)
		if err != nil {
			return err
		}
		if open {
			calm = 0
			if _, err := e.run(ctx, "-f"); err != nil {
				return fmt.Errorf("flush the export caches: %w", err)
			}
		} else {
			calm++
		}
		if calm == 2 {
			break
		}
		// rpc.mountd takes milliseconds from reading its table to its reply.
		if err := nfsd.Pause(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("%w: the kernel still lets a revoked client in: %w", nfs.ErrUnavailable, err)
		}
	}
	return nil
}

// clientAccess answers what clients may reach: the wanted exports, and those in the export table of
// any program. It reads the table on demand: a client without a mount, which the server does not
// know, needs no read.
type clientAccess struct {
	wanted   map[nfs.Key]nfs.Export
	table    func() ([]entry, error)
	procRoot string
}

// ToClient implements nfsd.Exported. It returns true for a host name or a netgroup, which only
// rpc.mountd can match.
func (r clientAccess) ToClient(addr netip.Addr) (bool, error) {
	for key := range r.wanted {
		if key.Client == addr {
			return true, nil
		}
	}
	table, err := r.table()
	return slices.ContainsFunc(table, func(have entry) bool {
		if have.Spec == "" {
			return have.Client == addr
		}
		network, err := parseNetwork(have.Spec)
		return err != nil || network.Contains(addr)
	}), err
}

// AtPath implements nfsd.Exported.
func (r clientAccess) AtPath(path string) bool {
	for key := range r.wanted {
		if key.Path == path {
			return true
		}
	}
	table, err := r.table()
	return err != nil || slices.ContainsFunc(table, func(have entry) bool { return have.Path == path })
}

// ShutOut implements nfsd.Exported. rpc.mountd refuses an address that matches no export, and
// nothing is published before the fence ends. A cached entry from an older table would last half an
// hour.
func (r clientAccess) ShutOut(addr netip.Addr) (letIn func(), err error) {
	cached, err := rpccache.Clients(rpcFolder(r.procRoot))
	if err != nil || slices.Contains(cached, addr) {
		return nil, err
	}
	return func() {}, nil
}

func rpcFolder(procRoot string) string { return filepath.Join(procRoot, "net/rpc") }

// parseNetwork reads "10.0.0.0/8", "10.0.0.0/255.0.0.0" or "fd00::/64" (exports(5)).
func parseNetwork(spec string) (netip.Prefix, error) {
	base, mask, _ := strings.Cut(spec, "/")
	if four := net.ParseIP(mask).To4(); four != nil {
		bits, _ := net.IPMask(four).Size()
		spec = fmt.Sprintf("%s/%d", base, bits)
	}
	return netip.ParsePrefix(spec)
}

// stillOpen reports whether the kernel has a cached entry that lets a client of a revoked export
// in, with the given access: an export, or a file system ID that refers to one. Both last half an
// hour. A handle of an old ID needs the second.
func (e *Engine) stillOpen(revoked []nfs.Export, access access) (bool, error) {
	closed := map[string]map[string]bool{}
	for _, export := range revoked {
		if closed[export.Path] == nil {
			closed[export.Path] = map[string]bool{}
		}
		closed[export.Path][clientName(export)] = true
	}
	exports, err := rpccache.Exports(rpcFolder(e.config.ProcRoot))
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
		return false, nil // the handles stay valid for reading
	}
	handles, err := rpccache.Handles(rpcFolder(e.config.ProcRoot))
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

// matches reports whether the domain contains one of the names. rpc.mountd names a client by
// everything that it matches: "10.0.0.1,10.0.0.0/8". With cache-use-ipaddr, or long netgroups, the
// name is "$10.0.0.1" (support/export/cache.c of nfs-utils).
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
