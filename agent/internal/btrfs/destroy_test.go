package btrfs_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

func TestDestroySubvolume(t *testing.T) {
	f := newFixture(t, testpool.Options{})
	source, _ := f.subvolume("source")
	assert.NilError(t, os.WriteFile(f.path("source", "file"), []byte("content"), 0o600))
	assert.NilError(t, btrfs.Snapshot(source, f.dir, "readonly", true))

	for _, name := range []string{"readonly", "source"} {
		assert.NilError(t, btrfs.DestroySubvolume(f.dir, name))
		_, err := os.Lstat(f.path(name))
		assert.Assert(t, os.IsNotExist(err))
		assert.ErrorIs(t, btrfs.DestroySubvolume(f.dir, name), unix.ENOENT)
	}
	assert.Equal(t, len(paths(t, f)), 0)
}

func TestDestroyLeavesOtherThingsAlone(t *testing.T) {
	f := newFixture(t, testpool.Options{})
	f.subvolume("volume")
	assert.NilError(t, os.Mkdir(f.path("directory"), 0o700))
	assert.NilError(t, os.WriteFile(f.path("file"), nil, 0o600))
	assert.NilError(t, os.Symlink("volume", f.path("link")))
	for name, want := range map[string]error{"directory": unix.EINVAL, "file": unix.ENOTDIR, "link": unix.ENOTDIR} {
		for _, destroy := range []func(*os.File, string) error{btrfs.DestroySubvolume, btrfs.DestroyTree} {
			err := destroy(f.dir, name)
			assert.Assert(t, errors.Is(err, want) || errors.Is(err, unix.EINVAL), "%s: %v", name, err)
			_, err = os.Lstat(f.path(name))
			assert.NilError(t, err)
		}
	}
	_, err := os.Lstat(f.path("volume"))
	assert.NilError(t, err)
}

func TestDestroyWhileOpen(t *testing.T) {
	f := newFixture(t, testpool.Options{})
	f.subvolume("volume")
	assert.NilError(t, os.WriteFile(f.path("volume", "file"), []byte("content"), 0o600))
	file, err := os.Open(f.path("volume", "file"))
	assert.NilError(t, err)
	defer file.Close()
	assert.NilError(t, btrfs.DestroySubvolume(f.dir, "volume"))
	content, err := io.ReadAll(file)
	assert.NilError(t, err)
	assert.Equal(t, string(content), "content")
}

func TestDestroySubvolumeID(t *testing.T) {
	f := newFixture(t, testpool.Options{})
	_, outer := f.subvolume("outer")
	outerDir := openDir(t, f.path("outer"))
	assert.NilError(t, btrfs.CreateSubvolume(outerDir, "inner"))
	inner, err := btrfs.Subvolume(openDir(t, f.path("outer", "inner")))
	assert.NilError(t, err)

	assert.ErrorIs(t, f.DestroySubvolumeID(outer.ID), unix.ENOTEMPTY)
	assert.NilError(t, f.DestroySubvolumeID(inner.ID))
	assert.ErrorIs(t, f.DestroySubvolumeID(inner.ID), unix.ENOENT)
	assert.NilError(t, f.DestroySubvolumeID(outer.ID))
	assert.ErrorIs(t, f.DestroySubvolumeID(1<<40), unix.ENOENT)
}

// The tree has siblings, directories between subvolumes, and read-only subvolumes on the path.
func TestDestroyTree(t *testing.T) {
	for _, readOnly := range []bool{false, true} {
		t.Run(fmt.Sprintf("readonly=%v", readOnly), func(t *testing.T) {
			f := newFixture(t, testpool.Options{})
			f.subvolume("bystander")
			f.subvolume("top")
			assert.NilError(t, os.MkdirAll(f.path("top", "some", "directory"), 0o700))
			var made []*os.File
			for _, path := range [][2]string{
				{"top", "a"}, {"top", "b"}, {"top/some/directory", "c"},
				{"top/a", "d"}, {"top/some/directory/c", "e"}, {"top/some/directory/c/e", "f"},
			} {
				assert.NilError(t, btrfs.CreateSubvolume(openDir(t, f.path(path[0])), path[1]))
				made = append(made, openDir(t, f.path(path[0], path[1])))
			}
			for _, subvolume := range append(made, openDir(t, f.path("top"))) {
				assert.NilError(t, btrfs.SetReadOnly(subvolume, readOnly))
			}
			assert.ErrorIs(t, btrfs.DestroySubvolume(f.dir, "top"), unix.ENOTEMPTY)

			assert.NilError(t, btrfs.DestroyTree(f.dir, "top"))

			_, err := os.Lstat(f.path("top"))
			assert.Assert(t, os.IsNotExist(err))
			assert.DeepEqual(t, paths(t, f), []string{"bystander"})
			assert.ErrorIs(t, btrfs.DestroyTree(f.dir, "top"), unix.ENOENT)
		})
	}
}
