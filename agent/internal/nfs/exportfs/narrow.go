package exportfs

import (
	"context"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// access is what a fence revokes.
type access int

const (
	anyAccess access = iota
	writeAccess
)

// narrow returns the read-only exports of the batch whose clients may have writes in progress:
// those that are writable in the table, and those whose writes did not end during an earlier
// attempt. At a start it only stores all read-only exports, because an earlier run may have ended
// before the writes did.
func (e *Engine) narrow(b *batch, table []entry) (narrowed []nfs.Export) {
	for _, have := range table {
		if _, mentioned := b.changes[have.Key()]; mentioned && !have.Options.ReadOnly {
			e.narrowed[have.Key()] = true
		}
	}
	for key, c := range b.changes {
		switch {
		case c.remove || !c.export.Options.ReadOnly || b.failed[key] != nil:
			delete(e.narrowed, key)
		case b.replace:
			e.narrowed[key] = true
		case e.narrowed[key]:
			narrowed = append(narrowed, c.export)
		}
	}
	return narrowed
}

// stopWriters waits until no client of the exports can write and no write of theirs is in progress.
func (e *Engine) stopWriters(ctx context.Context, narrowed []nfs.Export) error {
	if len(narrowed) == 0 {
		return nil
	}
	if err := e.shut(ctx, narrowed, writeAccess); err != nil {
		return err
	}
	if err := e.server.DrainExports(ctx, narrowed); err != nil {
		return err
	}
	for _, export := range narrowed {
		delete(e.narrowed, export.Key())
	}
	return nil
}
