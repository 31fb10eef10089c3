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

// writeFile writes the wanted exports to the exports file. It does so before the change and
// durably, because after a power cut only the file decides what clients may reach until the agent
// runs.
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
		return fmt.Errorf("%w: write %s: %w", nfs.ErrUnavailable, e.config.ExportsFile, err)
	}
	if err := syncFolder(folder); err != nil {
		return fmt.Errorf("%w: %w", nfs.ErrUnavailable, err)
	}
	return nil
}

// removeLeftovers removes temporary files of an interrupted write of the exports file. nfs-utils do
// not read them (renameio.TempFile).
func (e *Engine) removeLeftovers() {
	folder, name := filepath.Split(e.config.ExportsFile)
	left, err := filepath.Glob(filepath.Join(folder, "."+name+"[0-9]*"))
	for _, file := range left {
		err = errors.Join(err, os.Remove(file))
	}
	if err != nil {
		e.config.Logger.Warn("failed to remove temporary files of the exports file", "engine", Name, "error", err)
	}
}

// RemoveFile removes the exports file of this engine before another engine takes over, because
// nfs-utils would export its content. A file without the header belongs to another program and
// stays. It reports whether it removed the file.
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
		return false, fmt.Errorf("%w: remove the exports file of the exportfs engine: %w", nfs.ErrUnavailable, err)
	}
	return true, nil
}

// syncFolder makes the rename durable. renameio syncs only the file.
func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = folder.Close() }() // only synced
	return folder.Sync()
}
