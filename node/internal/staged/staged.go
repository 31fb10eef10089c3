// Package staged keeps the data of staged volumes that the driver needs after a restart and cannot
// read from mountinfo: the agent's URL and the token for usage.
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

// formatVersion increases when a record gets a meaning that an older driver must not ignore.
const formatVersion = 1

const suffix = ".json"

// ErrNotFound means that the volume has no record.
var ErrNotFound = errors.New("this node has no record of the volume")

// Record is the saved data of one volume.
type Record struct {
	Version    int    `json:"version"`
	VolumeID   string `json:"volume_id"`
	Source     string `json:"source"`              // server:path, as mountinfo shows it
	Dir        string `json:"dir,omitempty"`       // mount point
	ReadOnly   bool   `json:"read_only,omitempty"` // as requested
	AgentURL   string `json:"agent_url,omitempty"`
	UsageToken string `json:"usage_token,omitempty"`
}

// Store is a directory with one file per volume, named by the hash of the volume's ID. Only root
// can read the files. Store replaces a file atomically. It is safe for concurrent use on different
// volumes.
type Store struct{ dir string }

// Open creates the directory if it is missing.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create state directory: %w", err)
	}
	return &Store{dir: dir}, nil
}

// Save replaces the volume's record. The record survives a restart of the driver. After a power
// cut, the file is either the old or the new record.
func (s *Store) Save(r Record) error {
	r.Version = formatVersion
	content, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(s.file(r.VolumeID), content, 0o600, renameio.IgnoreUmask()); err != nil {
		return fmt.Errorf("save the record of volume %q: %w", r.VolumeID, err)
	}
	return nil
}

// Load reads a volume's record. The error is ErrNotFound if there is none, and another error if it
// cannot be read.
func (s *Store) Load(volumeID string) (Record, error) {
	r, err := read(s.file(volumeID))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Record{}, fmt.Errorf("%q: %w", volumeID, ErrNotFound)
	case err != nil:
		return Record{}, fmt.Errorf("read the record of volume %q: %w", volumeID, err)
	case r.VolumeID != volumeID:
		return Record{}, fmt.Errorf("record of volume %q is of volume %q", volumeID, r.VolumeID)
	}
	return r, nil
}

// List reads all records, in no order. Records that it cannot read are in the error.
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
		case !errors.Is(err, fs.ErrNotExist): // a record deleted in the meantime is no error
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
		return Record{}, fmt.Errorf("%s: version must be %d, got %d", file, formatVersion, r.Version)
	}
	return r, nil
}

// Delete removes a volume's record. It succeeds if there is none.
func (s *Store) Delete(volumeID string) error {
	if err := os.Remove(s.file(volumeID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the record of volume %q: %w", volumeID, err)
	}
	return nil
}

// file is named by a hash, because an ID may contain any byte.
func (s *Store) file(volumeID string) string {
	sum := sha256.Sum256([]byte(volumeID))
	return filepath.Join(s.dir, hex.EncodeToString(sum[:])+suffix)
}
