package kernel

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/rpccache"
)

// publish exports a subvolume to a client. It does not push an entry that the kernel has: replacing
// an entry makes the kernel scan all others (cache_put and cache_flush in net/sunrpc). Adding one
// does not.
func (e *Engine) publish(export published) error {
	e.lockFor(export.Client)
	defer e.mu.Unlock()
	if e.closed {
		return nfs.ErrClosed
	}
	client := e.clients.get(export.Client)
	old, replaced := client.exports[export.Path]
	if old.pushed && old.same(export) {
		return nil
	}
	now := e.now()
	if replaced && (old.key != export.key || old.dir != export.dir) {
		if err := e.revokeDirectory(client, export.Path, export.dir, revokedTTL); err != nil {
			return err // keeps the old key, so that it can be revoked
		}
	}
	e.version++
	security := client.security()
	if export.Options.ReadOnly {
		export.narrowed = old.narrowed
		if replaced && !old.Options.ReadOnly {
			export.narrowed = e.version
		}
	}
	_, pseudoRoots := client.add(export)
	if replaced && !old.pushed { // after a failure the kernel may lack the pseudo-root entries
		pseudoRoots = parents(export.Path)
	}
	if client.security() != security { // the pseudo-root entries have to allow the new flavor too
		pseudoRoots = slices.Sorted(maps.Keys(client.pseudoRoots))
	}
	if replaced {
		e.replaced = now
	}
	err := nfs.ErrNotFound
	if client.pushed {
		err = e.sendAll(slices.Concat(e.pseudoRootMessages(client, pseudoRoots, now), e.exportMessages(client, export, now)))
	}
	if errors.Is(err, nfs.ErrNotFound) {
		// The kernel may lack the client, for example after a flush.
		client.pushed = true
		// A client that keeps a mount while nothing is exported to it looks up the pseudo-root, and
		// the kernel caches the refusal.
		root := handleMessage(client.domain(), rootFSID, pseudoRootPath, now.Add(positiveTTL).Unix())
		err = e.sendAll(slices.Concat([]message{client.addressMessage(now)}, e.pseudoRootMessages(client, pseudoRoots, now), e.exportMessages(client, export, now), []message{root}))
	}
	if err != nil {
		// The kernel may have accepted some of the messages, or still has the replaced entry. The
		// export stays stored, so that List shows it and a revocation covers it.
		if !replaced && errors.Is(err, nfs.ErrNotFound) {
			return errors.Join(err, e.removeExport(client, export.Path))
		}
		if !replaced && !errors.Is(err, nfs.ErrUnavailable) {
			e.clients.remove(export.Client, export.Path)
		}
		return err
	}
	export.pushed = true
	client.exports[export.Path] = export
	return nil
}

// addressMessage maps the client's address to its domain. Exports can be pushed only after it.
func (c *clientState) addressMessage(now time.Time) message {
	return clientMessage(c.addr, c.domain(), now.Add(positiveTTL).Unix())
}

// exportMessages returns the entries that a client needs for an export, in the order that the
// kernel requires.
func (e *Engine) exportMessages(c *clientState, export published, now time.Time) []message {
	expiry := now.Add(positiveTTL).Unix()
	return []message{
		exportMessage(c.domain(), export.Export, e.flags(), expiry),
		handleMessage(c.domain(), export.key, export.Path, expiry),
	}
}

// pseudoRootMessages returns the pseudo-root entries of the directories.
func (e *Engine) pseudoRootMessages(c *clientState, pseudoRoots []string, now time.Time) []message {
	expiry := now.Add(pseudoRootTTL).Unix()
	messages := make([]message, 0, len(pseudoRoots))
	for _, dir := range pseudoRoots {
		messages = append(messages, pseudoRootMessage(c.domain(), dir, c.security(), e.flags(), expiry))
	}
	return messages
}

// revoke denies a client access to a subvolume, whichever program exported it:
//
//  1. It revokes the handle's key. This also works when the directory was deleted or replaced. From
//     then on the kernel does not look up the export.
//  2. It replaces the export with a negative entry.
//
// Pseudo-root entries stay until they expire. They show names that the client has seen, and nothing
// below them.
func (e *Engine) revoke(export nfs.Export) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nfs.ErrClosed
	}
	e.version++
	domain := export.Spec
	if export.Spec == "" {
		addr := export.Client.Unmap()
		domain = addr.String()
		if client := e.clients[addr]; client != nil {
			if err := e.removeExport(client, export.Path); err != nil {
				return err
			}
		}
	}
	e.replaced = e.now()
	return e.denyPath(domain, export.Path)
}

// removeExport revokes the client's export at path, wherever the directory was moved to.
func (e *Engine) removeExport(client *clientState, path string) error {
	dir, err := statDirectory(path)
	if err != nil {
		dir = directory{} // gone
	}
	if err := e.revokeDirectory(client, path, dir, revokedTTL); err != nil {
		return err
	}
	e.version++
	e.clients.remove(client.addr, path)
	return nil
}

// replaceDirectory stores the directory at the path of an export before it is pushed. If it
// replaces another directory, the client loses access to that one.
func (e *Engine) replaceDirectory(client *clientState, path string, dir directory) error {
	export, ok := client.exports[path]
	if !ok || export.key.kind != 0 && export.dir == dir {
		return nil
	}
	if err := e.revokeDirectory(client, path, dir, negativeTTL); err != nil { // short, because the administrator may move it back
		return err
	}
	export.setDirectory(dir)
	export.pushed = false
	client.exports[path] = export
	return nil
}

// revokeDirectory revokes access to the directory that the export at path had. The kernel keeps the
// key of its handles, and the export, for years. Both refer to the directory wherever it is moved.
// Both have to be revoked before dir takes its place.
func (e *Engine) revokeDirectory(client *clientState, path string, dir directory, expiry time.Duration) error {
	old := client.exports[path]
	if old.key.kind == 0 {
		return nil // not pushed, or flushed
	}
	if err := e.revokeHandle(client, path, expiry); err != nil {
		return err
	}
	if old.dir == dir {
		return nil
	}
	cached, err := rpccache.Exports(e.channels.root)
	if err != nil {
		return err
	}
	for _, entry := range cached {
		_, exported := client.exports[entry.Path]
		if exported || entry.FSID != old.FSID || entry.Domain != client.domain() || deleted(entry.Path) {
			continue
		}
		if err := e.denyPath(entry.Domain, entry.Path); err != nil {
			return err
		}
	}
	return nil
}

// denyPath replaces the kernel's export of a path with a negative entry. ENOENT means that there is
// no such directory or no such domain, and so nothing to revoke.
func (e *Engine) denyPath(domain, path string) error {
	err := e.replaceEntry(noExportMessage(domain, path, e.now().Add(negativeTTL).Unix()))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	return err
}

// revokeHandle revokes the key of the export at path, unless another export of the client has the
// same key. The engine may forget the key only after the kernel has accepted the message, because
// nothing can look it up later.
func (e *Engine) revokeHandle(client *clientState, path string, expiry time.Duration) error {
	old, had := client.exports[path]
	at := client.paths[old.FSID]
	if !had || old.key.kind == 0 || at != path && client.exports[at].key == old.key {
		return nil
	}
	err := e.replaceEntry(handleMessage(client.domain(), old.key, "", e.now().Add(expiry).Unix()))
	if errors.Is(err, unix.ENOENT) {
		return nil // no such domain, for example after a flush
	}
	return err
}

// longScan is the longest scan of the kernel's entries that needs no pause after it.
const longScan = 2 * time.Millisecond

// replaceEntry replaces a kernel entry, which makes the kernel scan all entries. On a host with one
// processor the server's threads wait for the scan, so the next replacement waits for the same
// time.
func (e *Engine) replaceEntry(m message) error {
	time.Sleep(time.Until(e.nextReplace))
	begin := time.Now()
	err := e.send(m)
	if took := time.Since(begin); took > longScan && runtime.NumCPU() == 1 {
		e.nextReplace = time.Now().Add(took)
	}
	return err
}

// sendAll sends the messages in order.
func (e *Engine) sendAll(messages []message) error {
	for _, m := range messages {
		if err := e.send(m); err != nil {
			return err
		}
	}
	return nil
}

// send sends one message and maps its error. Callers hold mu.
func (e *Engine) send(m message) error {
	err := e.channels.send(m)
	switch {
	case err == nil, errors.Is(err, nfs.ErrInvalid):
		return err
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%w: %w", nfs.ErrNotFound, err)
	case m.cache == cacheExport && errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: the kernel cannot export this type of filesystem: %w", nfs.ErrUnsupported, err)
	default:
		return fmt.Errorf("%w: %w", nfs.ErrUnavailable, err)
	}
}
