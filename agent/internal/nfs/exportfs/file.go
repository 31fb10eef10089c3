package exportfs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/renameio/v2"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// writeFile makes the exports file hold what is wanted. It comes before the
// change itself and is durable, because the file alone decides what clients may
// reach after a power cut until the agent runs again.
func (e *Engine) writeFile() error {
	text := exportsFile(slices.Collect(maps.Values(e.wanted)), e.config.Insecure)
	old, err := os.ReadFile(e.config.ExportsFile)
	if err == nil && bytes.Equal(old, text) {
		return nil
	}
	folder := filepath.Dir(e.config.ExportsFile)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("%w: %w", nfs.ErrUnavailable, err)
	}
	if err := renameio.WriteFile(e.config.ExportsFile, text, 0o644); err != nil {
		return fmt.Errorf("%w: writing %s: %w", nfs.ErrUnavailable, e.config.ExportsFile, err)
	}
	if err := syncFolder(folder); err != nil {
		return fmt.Errorf("%w: %w", nfs.ErrUnavailable, err)
	}
	return nil
}

// removeLeftovers removes what a kill left of writing the exports file: files that nfs-utils do not
// read (renameio.TempFile).
func (e *Engine) removeLeftovers() {
	folder, name := filepath.Split(e.config.ExportsFile)
	left, err := filepath.Glob(filepath.Join(folder, "."+name+"[0-9]*"))
	for _, file := range left {
		err = errors.Join(err, os.Remove(file))
	}
	if err != nil {
		e.config.Logger.Warn("what an interruption left beside the exports file stays", "engine", Name, "error", err)
	}
}

// RemoveFile removes a file that the engine has written, for when another engine takes over:
// nfs-utils would export what it holds. A file that begins otherwise is somebody else's. It reports
// whether there was one of the engine's.
func RemoveFile(path string) (removed bool, err error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !bytes.HasPrefix(text, []byte(fileHeader)) {
		return false, nil
	}
	if err == nil {
		err = os.Remove(path)
	}
	if err == nil {
		err = syncFolder(filepath.Dir(path))
	}
	if err != nil {
		return false, fmt.Errorf("%w: removing exports of the other engine: %w", nfs.ErrUnavailable, err)
	}
	return true, nil
}

// syncFolder makes the rename durable; renameio syncs the file only.
func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = folder.Close() }() // only synced
	return folder.Sync()
}
