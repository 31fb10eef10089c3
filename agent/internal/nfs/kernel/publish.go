package kernel

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// publish lets a client reach a subvolume.
func (e *Engine) publish(export published) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nfs.ErrClosed
	}
	known := e.clients.get(export.Client)
	security := known.security()
	old, replaced, ways := known.add(export)
	if known.security() != security { // the way has to allow the new flavour too
		ways = slices.Sorted(maps.Keys(known.ways))
	}
	if replaced && old.key != export.key {
		if err := e.send(handleMessage(known.domain(), old.key, "", e.now().Add(revoked).Unix())); err != nil {
			return err
		}
	}
	err := nfs.ErrNotFound
	if known.told {
		err = e.sendAll(e.messagesFor(known, ways, export))
	}
	if errors.Is(err, nfs.ErrNotFound) {
		// The kernel may not know the client, or not any more after a flush.
		known.told = true
		err = e.sendAll(append([]message{known.introduction(e.now())}, e.messagesFor(known, ways, export)...))
	}
	if err != nil {
		known.remove(export.Path)
	}
	return err
}

// introduction says who an address is. Exports can be told only afterwards.
func (c *client) introduction(now time.Time) message {
	return clientMessage(c.addr, c.domain(), now.Add(far).Unix())
}

// messagesFor are what the kernel has to know before a client can reach an
// export, in the order in which it can take them.
func (e *Engine) messagesFor(c *client, ways []string, export published) []message {
	expiry := e.now().Add(far).Unix()
	messages := make([]message, 0, len(ways)+2)
	for _, way := range ways {
		messages = append(messages, pseudoRootMessage(c.domain(), way, c.security(), e.config.Insecure, expiry))
	}
	return append(messages,
		exportMessage(c.domain(), export.Export, e.config.Insecure, expiry),
		handleMessage(c.domain(), export.key, export.Path, expiry))
}

// revoke shuts a client out of a subvolume, whoever let it in. The handle goes
// first: that works also when the directory is gone or another one by now, and
// from then on the kernel does not look for the export at all.
func (e *Engine) revoke(export nfs.Export) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nfs.ErrClosed
	}
	domain, ways := export.Spec, []string(nil)
	expiry := e.now().Add(near).Unix()
	if export.Spec == "" {
		addr := export.Client.Unmap()
		domain = addr.String()
		if known := e.clients[addr]; known != nil {
			var old published
			var had bool
			if old, had, ways = known.remove(export.Path); had && known.paths[old.FSID] == "" {
				if err := e.send(handleMessage(domain, old.key, "", e.now().Add(revoked).Unix())); err != nil {
					return err
				}
			}
		}
	}
	messages := []message{noExportMessage(domain, export.Path, expiry)}
	for _, way := range ways {
		messages = append(messages, noExportMessage(domain, way, expiry))
	}
	for _, m := range messages {
		// No such directory: nothing to shut. No such domain: nobody to shut
		// out. The kernel says ENOENT for both.
		if err := e.send(m); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
			return err
		}
	}
	return nil
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

// primeChunk is how many exports are told to the kernel before its questions
// get their turn.
const primeChunk = 32

// prime tells the kernel everything. Exports that it does not take, because
// their directory went away, are logged: their clients could not be helped.
func (e *Engine) prime(ctx context.Context) error {
	var failed error
	for _, keys := range e.chunks() {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("priming the export caches: %w", err)
		}
		if err := e.primeSome(keys); err != nil {
			failed = err
		}
	}
	return failed
}

// chunks lists all exports, by client.
func (e *Engine) chunks() [][]nfs.Key {
	e.mu.Lock()
	defer e.mu.Unlock()
	var chunks [][]nfs.Key
	for _, addr := range slices.SortedFunc(maps.Keys(e.clients), netip.Addr.Compare) {
		var keys []nfs.Key
		for _, path := range slices.Sorted(maps.Keys(e.clients[addr].exports)) {
			keys = append(keys, nfs.Key{Path: path, Client: addr})
		}
		chunks = slices.AppendSeq(chunks, slices.Chunk(keys, primeChunk))
	}
	return chunks
}

// primeSome tells the kernel about exports of one client, as they are now.
func (e *Engine) primeSome(keys []nfs.Key) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nfs.ErrClosed
	}
	told := map[string]bool{}
	var failed error
	for _, key := range keys {
		known := e.clients[key.Client]
		if known == nil {
			continue
		}
		export, ok := known.exports[key.Path]
		if !ok {
			continue // taken back meanwhile
		}
		var ways []string
		for _, way := range waysTo(export.Path) {
			if !told[way] {
				told[way] = true
				ways = append(ways, way)
			}
		}
		messages := e.messagesFor(known, ways, export)
		if len(told) == len(ways) { // the first export of this client
			messages = append([]message{known.introduction(e.now())}, messages...)
			known.told = true
		}
		if err := e.sendAll(messages); err != nil {
			failed = &nfs.ExportError{Export: export.Export, Err: err}
			e.config.Logger.Error("export could not be restored", "engine", Name,
				"path", export.Path, "client", export.Client, "error", err)
		}
	}
	return failed
}
