// Package staged keeps, over restarts of the driver, what it must know of the volumes staged on this node and cannot read
// from mountinfo: where and with which token their usage is asked.
package staged

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// formatVersion is raised when a record gains a meaning that an older driver must not ignore.
const formatVersion = 1

const suffix = ".json"

// ErrNotFound is that nothing is kept of a volume.
var ErrNotFound = errors.New("volume is not known on this node")

// Record is what is kept of one volume.
type Record struct {
	Version    int    `json:"version"`
	VolumeID   string `json:"volume_id"`
	Source     string `json:"source"`              // server:path, as mountinfo shows it
	Dir        string `json:"dir,omitempty"`       // where it is mounted
	ReadOnly   bool   `json:"read_only,omitempty"` // as it was asked for
	AgentURL   string `json:"agent_url,omitempty"`
	UsageToken string `json:"usage_token,omitempty"`
}

// Store is a directory with one file a volume, named by the hash of the volume's ID. Files are readable for root only and
// replaced as a whole. It is safe for concurrent use on different volumes.
type Store struct{ dir string }

// Open makes the directory where it is missing.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	return &Store{dir: dir}, nil
}

// Save replaces the volume's record. It survives a restart of the driver, and a power cut whole or not at all.
func (s *Store) Save(r Record) error {
	r.Version = formatVersion
	content, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(s.file(r.VolumeID), content, 0o600, renameio.IgnoreUmask()); err != nil {
		return fmt.Errorf("keeping the state of volume %q: %w", r.VolumeID, err)
	}
	return nil
}

// Load reads a volume's record. ErrNotFound where there is none; another error where it cannot be read.
func (s *Store) Load(volumeID string) (Record, error) {
	r, err := read(s.file(volumeID))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Record{}, fmt.Errorf("%q: %w", volumeID, ErrNotFound)
	case err != nil:
		return Record{}, fmt.Errorf("reading the state of volume %q: %w", volumeID, err)
	case r.VolumeID != volumeID:
		return Record{}, fmt.Errorf("state of volume %q is of volume %q", volumeID, r.VolumeID)
	}
	return r, nil
}

// List reads all records, in no order. What cannot be read is left out of them and in the error.
func (s *Store) List() ([]Record, error) {
	files, err := filepath.Glob(filepath.Join(s.dir, "*"+suffix))
	if err != nil {
		return nil, err
	}
	records := make([]Record, 0, len(files))
	var errs []error
	for _, file := range files {
		r, err := read(file)
		switch {
		case err == nil:
			records = append(records, r)
		case !errors.Is(err, fs.ErrNotExist): // that one was deleted meanwhile
			errs = append(errs, err)
		}
	}
	return records, errors.Join(errs...)
}

func read(file string) (Record, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return Record{}, err
	}
	var r Record
	if err := json.Unmarshal(content, &r); err != nil {
		return Record{}, fmt.Errorf("%s: %w", file, err)
	}
	if r.Version != formatVersion {
		return Record{}, fmt.Errorf("%s has version %d", file, r.Version)
	}
	return r, nil
}

// Delete removes a volume's record; a missing one is as good.
func (s *Store) Delete(volumeID string) error {
	if err := os.Remove(s.file(volumeID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the state of volume %q: %w", volumeID, err)
	}
	return nil
}

// file is named by a hash, as an ID may hold any byte.
func (s *Store) file(volumeID string) string {
	sum := sha256.Sum256([]byte(volumeID))
	return filepath.Join(s.dir, hex.EncodeToString(sum[:])+suffix)
}
