package testpool

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
)

// Subvolumes returns the subvolumes below the directory, by relative path. It walks all files.
func Subvolumes(t testing.TB, dir string) map[string]btrfs.SubvolumeInfo {
	t.Helper()
	const rootInode = 256 // of every subvolume (BTRFS_FIRST_FREE_OBJECTID)
	var paths []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() || path == dir {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Sys().(*syscall.Stat_t).Ino == rootInode {
			paths = append(paths, path)
		}
		return err
	})
	assert.NilError(t, err)
	found := map[string]btrfs.SubvolumeInfo{}
	for _, path := range paths {
		f, err := os.Open(path)
		assert.NilError(t, err)
		relative, err := filepath.Rel(dir, path)
		assert.NilError(t, err)
		found[relative], err = btrfs.Subvolume(f)
		assert.NilError(t, errors.Join(err, f.Close()))
	}
	return found
}
