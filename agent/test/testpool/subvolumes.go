package testpool

import (
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
	found := map[string]btrfs.SubvolumeInfo{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() || path == dir {
			return err
		}
		info, err := entry.Info()
		if err != nil || info.Sys().(*syscall.Stat_t).Ino != rootInode {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		relative, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		found[relative], err = btrfs.Subvolume(f)
		return err
	})
	assert.NilError(t, err)
	return found
}
