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

// primeChunk is how many exports are told to the kernel before its questions
// get their turn.
const primeChunk = 32

// primeTime is how long the start of the server waits for that. The kernel asks for what it has not been told, and is
// answered at once; being told is for the time when the agent is away.
const primeTime = 250 * time.Millisecond

// prime tells the kernel the exports, for so long, and returns those that are left. The directories that lead to them it
// asks for when somebody mounts. Exports that it does not take, because their directory went away, are logged: their
// clients could not be helped.
func (e *Engine) prime(ctx context.Context, chunks [][]nfs.Key, most time.Duration) (left [][]nfs.Key, failed error) {
	deadline := time.Now().Add(most)
	for i, keys := range chunks {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("priming the export caches: %w", err)
		}
		if time.Now().After(deadline) {
			return chunks[i:], failed
		}
		err := e.primeSome(keys)
		if errors.Is(err, nfs.ErrClosed) {
			return nil, err
		}
		if err != nil {
			failed = err
		}
	}
	return nil, failed
}

// primeLater goes on until Close.
func (e *Engine) primeLater(left [][]nfs.Key) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || len(left) == 0 {
		return
	}
	e.done.Go(func() {
		_, _ = e.prime(context.Background(), left, forever) // failures are logged, one by one
		e.mu.Lock()
		e.primed = true
		e.mu.Unlock()
	})
}

const forever = 24 * time.Hour

// Told reports whether the kernel has been told all exports since Start, so that mounts go on without the agent. Until then it asks for what somebody needs.
func (e *Engine) Told() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.primed
}

// forgotten notes that the kernel knows nothing any more.
func (e *Engine) forgotten() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, known := range e.clients {
		known.told = false
		for path, export := range known.exports {
			export.told = false
			known.exports[path] = export
		}
	}
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
	known := e.clients[keys[0].Client]
	if known == nil {
		return nil // all of its exports were taken back meanwhile
	}
	now := e.now()
	known.told = true
	if err := e.send(known.introduction(now)); err != nil {
		return err
	}
	var failed error
	for _, key := range keys {
		export, ok := known.exports[key.Path]
		if !ok || export.told {
			continue // taken back meanwhile, or published
		}
		err := e.primeOne(known, export, now)
		if errors.Is(err, nfs.ErrNotFound) {
			err = errors.Join(err, e.forget(known, key.Path))
		}
		if err != nil {
			failed = &nfs.ExportError{Export: export.Export, Err: err}
			e.config.Logger.Error("export could not be restored", "engine", Name,
				"path", export.Path, "client", export.Client, "error", err)
		}
	}
	return failed
}

// primeOne looks at the directory, which after a boot takes a read of the disk, and tells the kernel
// the export.
func (e *Engine) primeOne(known *client, export published, now time.Time) error {
	if err := export.find(); err != nil {
		return err
	}
	if err := e.moveTo(known, export.Path, export.dir); err != nil {
		return err
	}
	if err := e.sendAll(e.messagesFor(known, export, now)); err != nil {
		return err
	}
	export.told = true
	known.exports[export.Path] = export
	return nil
}
