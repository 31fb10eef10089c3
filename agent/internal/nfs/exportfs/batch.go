package exportfs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// change is one export to publish or to revoke.
type change struct {
	export nfs.Export
	remove bool
}

// batch is the changes for the next run of exportfs. Of several changes of one export the last one
// counts.
type batch struct {
	changes map[nfs.Key]change
	replace bool // remove all exports below the base path that are not in changes

	done   chan struct{} // closed when failed is complete
	failed map[nfs.Key]error
	err    error // the whole batch failed
}

// submit waits until the changes are applied. They are applied even if ctx ends first, so that no
// change stays half done.
func (e *Engine) submit(ctx context.Context, changes []change, replace bool) error {
	if len(changes) == 0 && !replace {
		return nil
	}
	b, err := e.join(changes, replace)
	if err != nil {
		return err
	}
	select {
	case <-b.done:
	case <-ctx.Done():
		return fmt.Errorf("wait for exportfs: %w", ctx.Err())
	}
	if b.err != nil {
		return b.err
	}
	var errs []error
	for _, c := range changes {
		if err := b.failed[c.export.Key()]; err != nil {
			errs = append(errs, &nfs.ExportError{Export: c.export, Err: err})
		}
	}
	return errors.Join(errs...)
}

func (e *Engine) join(changes []change, replace bool) (*batch, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, nfs.ErrClosed
	}
	if e.next == nil {
		e.next = &batch{changes: map[nfs.Key]change{}, done: make(chan struct{}), failed: map[nfs.Key]error{}}
		e.wake <- struct{}{} // never blocks: the worker takes next and wake together
	}
	for _, c := range changes {
		e.next.changes[c.export.Key()] = c
	}
	e.next.replace = e.next.replace || replace
	return e.next, nil
}

// work applies the batches one by one.
func (e *Engine) work(ctx context.Context) {
	for {
		select {
		case <-e.wake:
		case <-ctx.Done():
			e.abandon()
			return
		}
		e.letKernelClean(ctx) // more changes may join in the meantime
		b := e.take()
		e.apply(b)
		close(b.done)
	}
}

func (e *Engine) take() *batch {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := e.next
	e.next = nil
	return b
}

// abandon returns ErrClosed to the callers of the last batch.
func (e *Engine) abandon() {
	if b := e.take(); b != nil {
		b.err = nfs.ErrClosed
		close(b.done)
	}
}

// apply retries temporary failures. It uses a separate context, so that Close does not interrupt
// it.
func (e *Engine) apply(b *batch) {
	ctx := context.Background()
	for attempt := 0; ; attempt++ {
		err := e.attempt(ctx, b)
		if err == nil {
			return
		}
		if attempt == len(e.config.Backoff) || !errors.Is(err, nfs.ErrUnavailable) {
			b.fail(err)
			e.config.Logger.Error("failed to change exports", "engine", Name, "changes", len(b.changes), "error", err)
			return
		}
		e.config.Logger.Warn("failed to change exports, retrying", "engine", Name, "attempt", attempt+1, "error", err)
		time.Sleep(e.config.Backoff[attempt])
	}
}

// fail sets err for every change without an error.
func (b *batch) fail(err error) {
	if len(b.changes) == 0 {
		b.err = err
	}
	for key := range b.changes {
		if b.failed[key] == nil {
			b.failed[key] = err
		}
	}
}
