package exportfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// attempt applies a batch once. What the export table holds afterwards decides
// over success; exportfs's exit code does not: it fails for one bad path of many
// and for an export that is gone already.
func (e *Engine) attempt(ctx context.Context, b *batch) error {
	table, err := e.table(ctx)
	if err != nil {
		return err
	}
	e.adopt(b)
	publish, revoke := plan(b, table)
	if err := e.writeFile(); err != nil {
		return err
	}
	fence := e.toFence(b, revoke)
	narrowed := e.narrow(b, table)
	if len(publish) == 0 && len(fence) == 0 && len(narrowed) == 0 {
		return nil
	}
	var ran, fenced, stopped error
	e.unwatched(func() {
		ran = e.revoke(ctx, revoke)
		fenced = e.fence(ctx, fence)
		ran = errors.Join(ran, e.publish(ctx, publish))
		stopped = e.stopWriters(ctx, narrowed)
		table, err = e.table(ctx)
	})
	if err != nil {
		return err
	}
	if e.drifted(table) {
		e.notify()
	}
	publish, revoke = plan(b, table)
	if left := len(publish) + len(revoke); left > 0 {
		if ran == nil {
			ran = nfs.ErrUnavailable
		}
		return fmt.Errorf("%d exports are not as they should be: %w", left, ran)
	}
	e.note(b, fence, fenced)
	if stopped != nil {
		for _, export := range narrowed {
			b.failed[export.Key()] = stopped
		}
	}
	return nil
}

// toFence are the exports that are taken back, and those of the batch that may
// still be open: taken back and no longer in the table, or taken back before with
// a fence that failed.
func (e *Engine) toFence(b *batch, revoke []nfs.Export) []nfs.Export {
	fence := slices.Clone(revoke)
	for key, c := range b.changes {
		revoked := slices.ContainsFunc(revoke, func(e nfs.Export) bool { return e.Key() == key })
		if !revoked && (c.remove || e.unfenced[key]) {
			fence = append(fence, c.export)
		}
	}
	return fence
}

// note keeps what came of a fence, and makes the callers of the exports get err.
// No caller waits for what the batch does not mention.
func (e *Engine) note(b *batch, exports []nfs.Export, err error) {
	for _, export := range exports {
		key := export.Key()
		if err == nil {
			delete(e.unfenced, key)
			continue
		}
		e.unfenced[key] = true
		if _, mentioned := b.changes[key]; mentioned {
			b.failed[key] = err
			continue
		}
		e.config.Logger.Error("failed to fence a client of an export that is not wanted", "engine", Name,
			"path", export.Path, "client", clientName(export), "error", err)
	}
}

// adopt makes the batch part of what is wanted, less what cannot be exported.
func (e *Engine) adopt(b *batch) {
	if b.replace {
		clear(e.wanted)
	}
	for key, c := range b.changes {
		if c.remove {
			delete(e.wanted, key)
			continue
		}
		if err := directory(c.export.Path); err != nil {
			b.failed[key] = err
			delete(e.wanted, key)
			continue
		}
		delete(b.failed, key)
		e.wanted[key] = c.export
	}
}

// directory checks the path first, because exportfs adds paths to its table
// that it could not find.
func directory(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nfs.ErrNotFound
	case err != nil:
		return fmt.Errorf("%w: %w", nfs.ErrUnavailable, err)
	case !info.IsDir():
		return fmt.Errorf("%w: not a directory", nfs.ErrInvalid)
	}
	return nil
}

// plan compares the table with the batch.
func plan(b *batch, table []entry) (publish, revoke []nfs.Export) {
	present := make(map[nfs.Key]entry, len(table))
	emptied := map[string]bool{} // paths that a client must lose
	for _, c := range b.changes {
		emptied[c.export.Path] = emptied[c.export.Path] || c.remove
	}
	for _, have := range table {
		present[have.Key()] = have
		c, mentioned := b.changes[have.Key()]
		switch {
		case mentioned && c.remove, mentioned && b.failed[have.Key()] != nil:
			revoke = append(revoke, have.Export)
		case !mentioned && (b.replace || have.Spec != "" && emptied[have.Path]):
			revoke = append(revoke, have.Export)
		case mentioned && have.FSID != c.export.FSID:
			revoke = append(revoke, have.Export) // the handles of the old ID end before those of the new one begin
		}
	}
	for key, c := range b.changes {
		if c.remove || b.failed[key] != nil {
			continue
		}
		if have, ok := present[key]; !ok || !have.ours || have.Export != c.export {
			publish = append(publish, c.export)
		}
	}
	return publish, revoke
}

// drifted reports whether the table differs from all that is wanted.
func (e *Engine) drifted(table []entry) bool {
	for _, have := range table {
		if want, ok := e.wanted[have.Key()]; !ok || !have.ours || want != have.Export {
			return true
		}
	}
	return len(table) != len(e.wanted)
}

// maxArguments keeps a command line far below the kernel's 2 MiB (execve(2)).
const maxArguments = 2000

// revoke takes exports back: many with one run in the bulk way, where that is
// possible, else with one run for 2,000 of them.
func (e *Engine) revoke(ctx context.Context, exports []nfs.Export) error {
	if len(exports) > fewRevoked && !e.noBulk {
		err := e.revokeBulk(ctx, exports)
		switch {
		case errors.Is(err, errNoNamespace):
			e.doWithoutBulk(err)
		case !errors.Is(err, errNotInBulk):
			return err
		}
	}
	var errs []error
	for some := range slices.Chunk(exports, maxArguments) {
		args := []string{"-u"}
		for _, export := range some {
			args = append(args, argument(export))
		}
		if _, err := e.run(ctx, args...); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// publish adds exports. All clients of one subvolume with the same options fit
// in one run; exports that differ need a run each, or the bulk way.
func (e *Engine) publish(ctx context.Context, exports []nfs.Export) error {
	alike := map[string][]nfs.Export{}
	for _, export := range exports {
		line := options(export, e.config.Insecure)
		alike[line] = append(alike[line], export)
	}
	if len(alike) > 1 && !e.noBulk {
		err := e.publishBulk(ctx, exports)
		if !errors.Is(err, errNoNamespace) {
			return err
		}
		e.doWithoutBulk(err)
	}
	var errs []error
	for _, line := range slices.Sorted(maps.Keys(alike)) {
		for some := range slices.Chunk(alike[line], maxArguments) {
			args := []string{"-i", "-o", line}
			for _, export := range some {
				args = append(args, argument(export))
			}
			if _, err := e.run(ctx, args...); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}
