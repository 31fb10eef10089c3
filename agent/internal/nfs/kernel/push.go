package kernel

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// pushChunkSize is the number of exports pushed before upcalls get their turn.
const pushChunkSize = 32

// startPushTime is how long Start pushes exports before it starts the server. The kernel sends
// upcalls for missing exports and gets a reply at once. Pushed exports are for the time when the
// agent is down.
const startPushTime = 250 * time.Millisecond

// push writes exports to the kernel's caches for at most that long, and returns the rest. The
// kernel sends upcalls for the pseudo-root directories when a client mounts. push logs exports that
// the kernel refuses because their directory is missing.
func (e *Engine) push(ctx context.Context, chunks [][]nfs.Key, limit time.Duration) (left [][]nfs.Key, failed error) {
	deadline := time.Now().Add(limit)
	for i, keys := range chunks {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("push exports: %w", err)
		}
		if time.Now().After(deadline) {
			return chunks[i:], failed
		}
		err := e.pushChunk(keys)
		if errors.Is(err, nfs.ErrClosed) {
			return nil, err
		}
		if err != nil {
			failed = err
		}
	}
	return nil, failed
}

// pushRest continues in the background until Close.
func (e *Engine) pushRest(left [][]nfs.Key) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || len(left) == 0 {
		return
	}
	e.done.Go(func() {
		_, _ = e.push(context.Background(), left, forever) // push logs each failure
		e.mu.Lock()
		e.allPushed = true
		e.mu.Unlock()
	})
}

const forever = 24 * time.Hour

// AllPushed reports whether the kernel got all exports since Start. Then mounts do not need the
// agent. Until then the kernel sends upcalls for the missing ones.
func (e *Engine) AllPushed() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.allPushed
}

// markAllStale notes that the kernel's caches are empty.
func (e *Engine) markAllStale() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, client := range e.clients {
		client.pushed = false
		for path, export := range client.exports {
			export.pushed = false
			client.exports[path] = export
		}
	}
}

// chunks lists all exports by client.
func (e *Engine) chunks() [][]nfs.Key {
	e.mu.Lock()
	defer e.mu.Unlock()
	var chunks [][]nfs.Key
	for _, addr := range slices.SortedFunc(maps.Keys(e.clients), netip.Addr.Compare) {
		var keys []nfs.Key
		for _, path := range slices.Sorted(maps.Keys(e.clients[addr].exports)) {
			keys = append(keys, nfs.Key{Path: path, Client: addr})
		}
		chunks = slices.AppendSeq(chunks, slices.Chunk(keys, pushChunkSize))
	}
	return chunks
}

// pushChunk pushes exports of one client in their current state.
func (e *Engine) pushChunk(keys []nfs.Key) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nfs.ErrClosed
	}
	client := e.clients[keys[0].Client]
	if client == nil {
		return nil // all its exports were revoked in the meantime
	}
	now := e.now()
	client.pushed = true
	if err := e.send(client.addressMessage(now)); err != nil {
		return err
	}
	var failed error
	for _, key := range keys {
		export, ok := client.exports[key.Path]
		if !ok || export.pushed {
			continue // revoked or published in the meantime
		}
		err := e.pushExport(client, export, now)
		if errors.Is(err, nfs.ErrNotFound) {
			err = errors.Join(err, e.removeExport(client, key.Path))
		}
		if err != nil {
			failed = &nfs.ExportError{Export: export.Export, Err: err}
			e.config.Logger.Error("failed to restore export", "engine", Name,
				"path", export.Path, "client", export.Client, "error", err)
		}
	}
	return failed
}

// pushExport calls statx for the directory, which reads the disk after a boot, and pushes the
// export.
func (e *Engine) pushExport(client *clientState, export published, now time.Time) error {
	if err := export.find(); err != nil {
		return err
	}
	if err := e.replaceDirectory(client, export.Path, export.dir); err != nil {
		return err
	}
	if err := e.sendAll(e.exportMessages(client, export, now)); err != nil {
		return err
	}
	export.pushed = true
	client.exports[export.Path] = export
	return nil
}
