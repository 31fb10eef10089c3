package nfsmount

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// mountPointMode is the mode of directories for mounts: only root needs access.
const mountPointMode = 0o750

// makeMountPoint creates dir if it is missing. It refuses paths that a mount must not cover: a
// file, a symbolic link, a directory with content. Nothing is mounted at dir, so its filesystem is
// local and answers.
func makeMountPoint(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), mountPointMode); err != nil {
		return fmt.Errorf("%w: %w", ErrTarget, err)
	}
	err := os.Mkdir(dir, mountPointMode)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	return requireEmpty(dir)
}

func requireEmpty(dir string) error {
	info, err := os.Lstat(dir)
	switch {
	case err != nil:
		return err
	case info.Mode()&fs.ModeSymlink != 0:
		return fmt.Errorf("%s is %w: it is a symbolic link", dir, ErrTarget)
	case !info.IsDir():
		return fmt.Errorf("%s is %w: it is a file", dir, ErrTarget)
	}
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Readdirnames(1); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s is %w: it has content on this node's own disk, which a mount would hide", dir, ErrTarget)
	}
	return nil
}

// removeMountPoint removes an empty directory without a mount. It succeeds if the directory is
// missing. It uses rmdir(2), which refuses files, content and mounts.
func removeMountPoint(dir string) error {
	err := unix.Rmdir(dir)
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%s is %w: it is a file or a symbolic link, which the driver does not remove", dir, ErrTarget)
	case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%s is %w: it has content on this node's own disk, which the driver does not remove", dir, ErrTarget)
	}
	return fmt.Errorf("remove %s: %w", dir, err)
}

// evalExisting resolves symbolic links in the part of a path that exists.
func evalExisting(dir string) (string, error) {
	resolved, err := filepath.EvalSymlinks(dir)
	switch {
	case err == nil:
		return resolved, nil
	case !errors.Is(err, fs.ErrNotExist) || dir == "/" || dir == ".":
		return "", fmt.Errorf("%w: %w", ErrTarget, err)
	}
	parent, err := evalExisting(filepath.Dir(dir))
	if err != nil {
		return "", err
	}
	return filepath.Join(parent, filepath.Base(dir)), nil
}
