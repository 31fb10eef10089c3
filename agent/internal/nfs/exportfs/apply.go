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

// attempt applies a batch once. The export table afterwards decides about success. The exit code of
// exportfs does not: exportfs fails if one of many paths is bad or an export no longer exists.
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
		return fmt.Errorf("%d exports in the export table are not as requested: %w", left, ran)
	}
	e.note(b, fence, fenced)
	if stopped != nil {
		for _, export := range narrowed {
			b.failed[export.Key()] = stopped
		}
	}
	return nil
}

// toFence returns the revoked exports, and those of the batch that the kernel may still let in:
// exports that are not in the table, and exports whose earlier fence failed.
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

// note stores the result of a fence. If it failed, it passes the error to the callers of the batch,
// and logs it for other exports.
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
		e.config.Logger.Error("failed to fence a client of an export that was removed", "engine", Name,
			"path", export.Path, "client", clientName(export), "error", err)
	}
}

// adopt adds the batch to the wanted exports, except those that cannot be exported.
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

// directory checks the path first, because exportfs adds missing paths to its table.
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
	emptied := map[string]bool{} // paths with a revocation
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
			revoke = append(revoke, have.Export) // revoke the handles of the old ID before the new one is exported
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

// drifted reports whether the table differs from the wanted exports.
func (e *Engine) drifted(table []entry) bool {
	for _, have := range table {
		if want, ok := e.wanted[have.Key()]; !ok || !have.ours || want != have.Export {
			return true
		}
	}
	return len(table) != len(e.wanted)
}

// maxArguments keeps a command line far below the kernel's limit of 2 MiB (execve(2)).
const maxArguments = 2000

// revoke removes exports: many with one run in bulk if possible, otherwise with one run per 2,000
// exports.
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

// publish adds exports. One run publishes all clients of a subvolume with the same options. Exports
// with different options need one run each, or the bulk mode.
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
