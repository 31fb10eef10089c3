package mounttest

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
)

func mountIsIdempotent(t *testing.T, b Backend) {
	data, _, source := mounted(t, b)
	write(t, filepath.Join(data, "f"), "x")
	for range 3 {
		assert.NilError(t, b.Mounter().Mount(t.Context(), source, data, b.Options()))
	}
	assert.Equal(t, layers(t, data), 1)
	assert.Equal(t, read(t, filepath.Join(data, "f")), "x")
	p, err := b.Mounter().Volume(t.Context(), data)
	assert.NilError(t, err)
	assert.Equal(t, p.Source, source.String())
	assert.Equal(t, p.ReadOnly, false)
}

func mountOverLeftovers(t *testing.T, b Backend) {
	data := filepath.Join(place(t), "data")
	assert.NilError(t, os.Mkdir(data, 0o755))
	_, err := b.Mounter().Volume(t.Context(), data)
	assert.ErrorIs(t, err, nfsmount.ErrNotMounted)
	assert.NilError(t, b.Mounter().Mount(t.Context(), b.NewVolume(t), data, b.Options()))
	assert.Equal(t, layers(t, data), 1)
}

// hostile returns paths in dir that must not be mounted on, and a check that they are unchanged.
func hostile(t *testing.T, dir string) (paths map[string]string, untouched func()) {
	t.Helper()
	elsewhere := filepath.Join(dir, "elsewhere")
	assert.NilError(t, os.Mkdir(elsewhere, 0o755))
	file, link, full := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "full")
	write(t, file, "kept")
	assert.NilError(t, os.Symlink(elsewhere, link))
	assert.NilError(t, os.Mkdir(full, 0o755))
	write(t, filepath.Join(full, "f"), "kept")
	broken := filepath.Join(dir, "broken")
	assert.NilError(t, os.Symlink("/nowhere/at/all", broken))
	return map[string]string{"file": file, "link": link, "full": full, "broken": broken}, func() {
		assert.Equal(t, read(t, file), "kept")
		assert.Equal(t, read(t, filepath.Join(full, "f")), "kept")
		for _, l := range []string{link, broken} {
			info, err := os.Lstat(l)
			assert.NilError(t, err)
			assert.Equal(t, info.Mode().Type(), os.ModeSymlink)
		}
		_, err := os.Stat(elsewhere)
		assert.NilError(t, err)
		assert.Equal(t, layers(t, elsewhere), 0)
	}
}

func mountRefusesHostileDirs(t *testing.T, b Backend) {
	paths, untouched := hostile(t, place(t))
	for _, path := range paths {
		assert.ErrorIs(t, b.Mounter().Mount(t.Context(), b.NewVolume(t), path, b.Options()), nfsmount.ErrTarget)
		assert.Equal(t, layers(t, path), 0)
	}
	under := filepath.Join(paths["file"], "data")
	assert.ErrorIs(t, b.Mounter().Mount(t.Context(), b.NewVolume(t), under, b.Options()), nfsmount.ErrTarget)
	untouched()
}

func mountConflict(t *testing.T, b Backend) {
	data, _, source := mounted(t, b)
	write(t, filepath.Join(data, "f"), "first")
	err := b.Mounter().Mount(t.Context(), b.NewVolume(t), data, b.Options())
	assert.ErrorIs(t, err, nfsmount.ErrConflict)
	assert.ErrorContains(t, err, source.String())
	assert.Equal(t, read(t, filepath.Join(data, "f")), "first")
	assert.Equal(t, layers(t, data), 1)

	assert.ErrorIs(t, b.Mounter().Mount(t.Context(), source, data, append(b.Options(), "ro")), nfsmount.ErrConflict)
	write(t, filepath.Join(data, "f"), "still writable")
}

func mountFailure(t *testing.T, b Backend) {
	f := b.NewFragile(t)
	f.Revoke()
	data := filepath.Join(place(t), "data")
	err := within(t, Patience(b), func() error { return b.Mounter().Mount(t.Context(), f.Source, data, b.Options()) })
	assert.Assert(t, err != nil)
	assert.ErrorContains(t, err, f.Source.String())
	assert.Equal(t, layers(t, data), 0)
	f.Restore()
	assert.NilError(t, b.Mounter().Mount(t.Context(), f.Source, data, b.Options()))
}

// mount(8) can report success for a different mount.
func mountOfAnother(t *testing.T, b Backend) {
	dir := place(t)
	source, another := b.NewVolume(t), b.NewVolume(t)
	filesystem := b.Filesystem()
	mount := filesystem.Mount
	filesystem.Mount = func(ctx context.Context, _ nfsmount.Source, dir string, options []string) error {
		return mount(ctx, another, dir, options)
	}
	err := nfsmount.NewFor(filesystem, b.Limits(), slog.New(slog.DiscardHandler)).Mount(t.Context(), source, filepath.Join(dir, "data"), b.Options())
	assert.ErrorIs(t, err, nfsmount.ErrConflict)
	assert.Equal(t, len(mountsBelow(t, dir)), 0)
}

func mountReplacesStale(t *testing.T, b Backend) {
	data, dir, f := mountedFragile(t, b)
	f.Revoke()
	assert.ErrorIs(t, b.Mounter().Check(t.Context(), data), nfsmount.ErrStale)
	f.Restore()
	assert.NilError(t, b.Mounter().Mount(t.Context(), f.Source, data, b.Options()))
	assert.NilError(t, b.Mounter().Check(t.Context(), data))
	assert.Equal(t, len(mountsBelow(t, dir)), 1, "the broken mount and the place beside it are gone")
	p, err := b.Mounter().Volume(t.Context(), data)
	assert.NilError(t, err)
	assert.Equal(t, p.Source, f.Source.String())
	entries, err := os.ReadDir(filepath.Dir(data))
	assert.NilError(t, err)
	assert.Equal(t, len(entries), 1)
}

// The caller's deadline passes when the new mount is ready and the old one is not yet removed. The
// orchestrator considers the volume staged, so one of them has to be mounted.
func mountReplacesForNobody(t *testing.T, b Backend) {
	data, dir, f := mountedFragile(t, b)
	f.Revoke()
	f.Restore()
	ctx, gone := context.WithCancel(t.Context())
	filesystem := b.Filesystem()
	mount := filesystem.Mount
	filesystem.Mount = func(ctx context.Context, source nfsmount.Source, dir string, options []string) error {
		defer gone()
		return mount(ctx, source, dir, options)
	}
	assert.NilError(t, nfsmount.NewFor(filesystem, b.Limits(), slog.New(slog.DiscardHandler)).Mount(ctx, f.Source, data, b.Options()))
	assert.Assert(t, ctx.Err() != nil)
	assert.NilError(t, b.Mounter().Check(t.Context(), data))
	assert.DeepEqual(t, mountsBelow(t, dir), []string{data})
}

func mountKeepsWhatItCannotReplace(t *testing.T, b Backend) {
	data, dir, f := mountedFragile(t, b)
	f.Revoke()
	err := within(t, Patience(b), func() error { return b.Mounter().Mount(t.Context(), f.Source, data, b.Options()) })
	assert.Assert(t, err != nil)
	assert.DeepEqual(t, mountsBelow(t, dir), []string{data})
	_, err = b.Mounter().Volume(t.Context(), data)
	assert.NilError(t, err, "the orchestrator takes it for staged, so it stays")
}

func oddPaths(t *testing.T, b Backend) {
	for _, name := range []string{"with blank", `back\slash`, `back\040slash`, "größe-音量", "#hash", "comma,dot.colon:"} {
		dir := filepath.Join(place(t), name)
		data, target := filepath.Join(dir, "data"), filepath.Join(dir, "target")
		assert.NilError(t, b.Mounter().Mount(t.Context(), b.NewVolume(t), data, b.Options()), name)
		assert.NilError(t, b.Mounter().Bind(t.Context(), data, target, true), name)
		assert.NilError(t, b.Mounter().Bind(t.Context(), data, target, true), name)
		assert.NilError(t, b.Mounter().Unbind(t.Context(), target), name)
		assert.NilError(t, b.Mounter().Unmount(t.Context(), data), name)
		gone(t, target)
		gone(t, data)
	}
}

func linkedParents(t *testing.T, b Backend) {
	dir := place(t)
	assert.NilError(t, os.Mkdir(filepath.Join(dir, "real"), 0o755))
	assert.NilError(t, os.Symlink("real", filepath.Join(dir, "linked")))
	linked := filepath.Join(dir, "linked", "staging", "data")
	source := b.NewVolume(t)
	for range 2 {
		assert.NilError(t, b.Mounter().Mount(t.Context(), source, linked, b.Options()))
	}
	assert.Equal(t, layers(t, filepath.Join(dir, "real", "staging", "data")), 1)
	target := filepath.Join(dir, "linked", "target")
	for range 2 {
		assert.NilError(t, b.Mounter().Bind(t.Context(), linked, target, false))
	}
	assert.NilError(t, b.Mounter().Unbind(t.Context(), target))
	assert.NilError(t, b.Mounter().Unmount(t.Context(), linked))
	assert.Equal(t, len(mountsBelow(t, dir)), 0)
}
