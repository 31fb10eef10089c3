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
)

// publish lets a client reach a subvolume. What the kernel knows already it is not told again: replacing an entry makes it
// look through all others (cache_put and cache_flush in net/sunrpc), which adding one does not.
func (e *Engine) publish(export published) error {
	e.lockFor(export.Client)
	defer e.mu.Unlock()
	if e.closed {
		return nfs.ErrClosed
	}
	known := e.clients.get(export.Client)
	old, replaced := known.exports[export.Path]
	if old.told && old.same(export) {
		return nil
	}
	now := e.now()
	if replaced && (old.key != export.key || old.dir != export.dir) {
		if err := e.leave(known, export.Path, export.dir, revoked); err != nil {
			return err // the old key stays known, to be revoked
		}
	}
	e.version++
	security := known.security()
	if export.Options.ReadOnly {
		export.narrowed = old.narrowed
		if replaced && !old.Options.ReadOnly {
			export.narrowed = e.version
		}
	}
	_, ways := known.add(export)
	if replaced && !old.told { // after a failure the kernel may not know the way
		ways = waysTo(export.Path)
	}
	if known.security() != security { // the way has to allow the new flavour too
		ways = slices.Sorted(maps.Keys(known.ways))
	}
	if replaced {
		e.replaced = now
	}
	err := nfs.ErrNotFound
	if known.told {
		err = e.sendAll(slices.Concat(e.wayMessages(known, ways, now), e.messagesFor(known, export, now)))
	}
	if errors.Is(err, nfs.ErrNotFound) {
		// The kernel may not know the client, or not any more after a flush.
		known.told = true
		// A client that still has something mounted asks for the pseudo-root while nothing is exported to
		// it, and the kernel remembers the refusal for a while.
		root := handleMessage(known.domain(), rootFSID, pseudoRootPath, now.Add(far).Unix())
		err = e.sendAll(slices.Concat([]message{known.introduction(now)}, e.wayMessages(known, ways, now), e.messagesFor(known, export, now), []message{root}))
	}
	if err != nil {
		// The kernel may have taken a part, or has what the export replaces. Then the export stays
		// known, so that List shows it and a revocation covers it.
		if !replaced && errors.Is(err, nfs.ErrNotFound) {
			return errors.Join(err, e.forget(known, export.Path))
		}
		if !replaced && !errors.Is(err, nfs.ErrUnavailable) {
			e.clients.remove(export.Client, export.Path)
		}
		return err
	}
	export.told = true
	known.exports[export.Path] = export
	return nil
}

// introduction says who an address is. Exports can be told only afterwards.
func (c *client) introduction(now time.Time) message {
	return clientMessage(c.addr, c.domain(), now.Add(far).Unix())
}

// messagesFor are what the kernel has to know before a client can reach an
// export, in the order in which it can take them.
func (e *Engine) messagesFor(c *client, export published, now time.Time) []message {
	expiry := now.Add(far).Unix()
	return []message{
		exportMessage(c.domain(), export.Export, e.flags(), expiry),
		handleMessage(c.domain(), export.key, export.Path, expiry),
	}
}

// wayMessages let a client walk through the directories.
func (e *Engine) wayMessages(c *client, ways []string, now time.Time) []message {
	expiry := now.Add(wayTime).Unix()
	messages := make([]message, 0, len(ways))
	for _, way := range ways {
		messages = append(messages, pseudoRootMessage(c.domain(), way, c.security(), e.flags(), expiry))
	}
	return messages
}

// revoke shuts a client out of a subvolume, whoever let it in. The handle goes
// first: that works also when the directory is gone or another one by now, and
// from then on the kernel does not look for the export at all. The way stays open
// until it expires: it shows a name that the client knew, and nothing behind it.
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
		if known := e.clients[addr]; known != nil {
			if err := e.forget(known, export.Path); err != nil {
				return err
			}
		}
	}
	e.replaced = e.now()
	return e.refuse(domain, export.Path)
}

// forget ends the client's export at path, wherever the directory is now.
func (e *Engine) forget(known *client, path string) error {
	dir, err := inspect(path)
	if err != nil {
		dir = place{} // gone
	}
	if err := e.leave(known, path, dir, revoked); err != nil {
		return err
	}
	e.version++
	e.clients.remove(known.addr, path)
	return nil
}

// moveTo notes which directory is at the path of an export, before the kernel is told. Where another
// one was there, the client loses that.
func (e *Engine) moveTo(known *client, path string, dir place) error {
	export, ok := known.exports[path]
	if !ok || export.key.kind != 0 && export.dir == dir {
		return nil
	}
	if err := e.leave(known, path, dir, near); err != nil { // briefly: it may be put back
		return err
	}
	export.setDirectory(dir)
	export.told = false
	known.exports[path] = export
	return nil
}

// leave shuts the client out of the directory that the export at path had. The kernel keeps the key
// of its handles, and the export, for years, and both lead to the directory wherever it is moved. So
// nothing of it may be left when dir takes its place.
func (e *Engine) leave(known *client, path string, dir place, expiry time.Duration) error {
	old := known.exports[path]
	if old.key.kind == 0 {
		return nil // the kernel has not been told, or has been made to forget
	}
	if err := e.revokeHandle(known, path, expiry); err != nil {
		return err
	}
	if old.dir == dir {
		return nil
	}
	cached, err := e.cachedExports()
	if err != nil {
		return fmt.Errorf("%w: %w", nfs.ErrUnavailable, err)
	}
	for _, entry := range cached {
		_, wanted := known.exports[entry.Path]
		if wanted || entry.FSID != old.FSID || entry.Domain != known.domain() || deleted(entry.Path) {
			continue
		}
		if err := e.refuse(entry.Domain, entry.Path); err != nil {
			return err
		}
	}
	return nil
}

// refuse replaces the kernel's export of a path. No such directory: nothing to shut. No such domain:
// no client to shut out. The kernel says ENOENT for both.
func (e *Engine) refuse(domain, path string) error {
	err := e.replace(noExportMessage(domain, path, e.now().Add(near).Unix()))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	return err
}

// revokeHandle shuts the client out of the file system that the key of the export at path leads to,
// unless another of its exports has the same key. Only when the kernel has taken it may the key be
// forgotten: nobody else knows it.
func (e *Engine) revokeHandle(known *client, path string, expiry time.Duration) error {
	old, had := known.exports[path]
	at := known.paths[old.FSID]
	if !had || old.key.kind == 0 || at != path && known.exports[at].key == old.key {
		return nil
	}
	err := e.replace(handleMessage(known.domain(), old.key, "", e.now().Add(expiry).Unix()))
	if errors.Is(err, unix.ENOENT) {
		return nil // no such domain, as after a flush
	}
	return err
}

// longScan is how long the kernel may look through its entries without a rest after it.
const longScan = 2 * time.Millisecond

// replace tells the kernel something in place of what it knows, at which it looks through all that it knows. On a machine with one
// processor the server's threads wait for that, so they have it to themselves for as long before the next.
func (e *Engine) replace(m message) error {
	time.Sleep(time.Until(e.rested))
	begin := time.Now()
	err := e.send(m)
	if took := time.Since(begin); took > longScan && runtime.NumCPU() == 1 {
		e.rested = time.Now().Add(took)
	}
	return err
}

// sendAll tells the kernel all of the messages.
func (e *Engine) sendAll(messages []message) error {
	for _, m := range messages {
		if err := e.send(m); err != nil {
			return err
		}
	}
	return nil
}

// send tells the kernel one thing. Callers hold mu.
func (e *Engine) send(m message) error {
	err := e.channels.send(m)
	switch {
	case err == nil, errors.Is(err, nfs.ErrInvalid):
		return err
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%w: %w", nfs.ErrNotFound, err)
	case m.cache == cacheExport && errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: the kernel cannot export this kind of file system: %w", nfs.ErrUnsupported, err)
	default:
		return fmt.Errorf("%w: %w", nfs.ErrUnavailable, err)
	}
}
