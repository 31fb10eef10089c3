package migrate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
)

// state is what an item was like before: kept in keptDir as JSON.
type state struct {
	Content   string   `json:"metadata"`
	Immutable bool     `json:"immutable"`
	Writable  bool     `json:"writable"` // a snapshot whose data was not read-only
	Refs      []string `json:"refs"`     // files that were made in clients

	uuid uuid.UUID
}

// Apply does what the plan says, one item after the other. It can be interrupted and repeated: what is done is found done. An item that
// fails is left for the next time, and the others go on.
func (p *Plan) Apply(progress func(Item)) error {
	var failed []error
	for n := range p.Items {
		item := &p.Items[n]
		if item.Problem == "" {
			if err := item.apply(p.BasePath); err != nil {
				failed = append(failed, fmt.Errorf("%s: %w", item.Dir, err))
			} else {
				item.Done = true
			}
		}
		progress(*item)
	}
	return errors.Join(append(failed, commit(p.BasePath))...)
}

func (i *Item) apply(base string) error {
	refs := i.old.adoptedRefs()
	for _, r := range refs {
		i.before.Refs = append(i.before.Refs, r.file())
	}
	// In this order: until the last step the older agent finds what it knows, and what was is kept already.
	if err := i.keep(base); err != nil {
		return err
	}
	if i.before.Immutable {
		if err := setImmutable(filepath.Join(i.Dir, metadataFile), false); err != nil {
			return err
		}
	}
	if err := i.setReadOnly(true); err != nil {
		return err
	}
	for _, r := range refs {
		if err := writeJSON(filepath.Join(i.Dir, clientsDir, r.file()), r); err != nil {
			return err
		}
	}
	return writeJSON(filepath.Join(i.Dir, metadataFile), i.old.adopted(i.before.uuid))
}

func (i *Item) setReadOnly(readOnly bool) error {
	if !i.before.Writable {
		return nil
	}
	data, err := i.openData()
	if err != nil {
		return err
	}
	defer data.Close()
	return btrfs.SetReadOnly(data, readOnly)
}

func (i *Item) kept(base string) string {
	if i.Snapshot {
		return filepath.Join(base, keptDir, i.Tenant, snapshotsDir, i.Name+".json")
	}
	return filepath.Join(base, keptDir, i.Tenant, i.Name+".json")
}

// keep never replaces what an earlier try has kept, which was the original.
func (i *Item) keep(base string) error {
	if _, err := os.Stat(i.kept(base)); err == nil {
		return nil
	}
	return writeJSON(i.kept(base), i.before)
}

// Undo puts everything back that a migration has kept. Volumes that are gone stay gone; those made since are left alone.
func Undo(base string, progress func(Item)) error {
	root := filepath.Join(base, keptDir)
	var failed []error
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		item, err := itemOf(base, root, path)
		if err == nil {
			err = item.undo(path)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", path, err))
		}
		item.Done = err == nil
		progress(item)
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("nothing was migrated here")
	}
	if err == nil && len(failed) == 0 {
		err = os.RemoveAll(root)
	}
	return errors.Join(append(failed, err, commit(base))...)
}

func itemOf(base, root, path string) (Item, error) {
	inside, err := filepath.Rel(root, strings.TrimSuffix(path, ".json"))
	if err != nil {
		return Item{}, err
	}
	parts := strings.Split(inside, "/")
	item := Item{Tenant: parts[0], Name: parts[len(parts)-1], Snapshot: len(parts) == 3, Dir: filepath.Join(base, inside)}
	content, err := os.ReadFile(path)
	if err != nil {
		return item, err
	}
	return item, json.Unmarshal(content, &item.before)
}

func (i *Item) undo(kept string) error {
	file := filepath.Join(i.Dir, metadataFile)
	if _, err := os.Stat(i.Dir); errors.Is(err, fs.ErrNotExist) {
		return os.Remove(kept)
	}
	if now, err := immutable(file); err == nil && !now {
		if err := renameio.WriteFile(file, []byte(i.before.Content), 0o600); err != nil {
			return err
		}
	}
	if err := i.setReadOnly(false); err != nil {
		return err
	}
	for _, name := range i.before.Refs {
		if err := os.Remove(filepath.Join(i.Dir, clientsDir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	// References that were made since keep it, and the older agent passes it over.
	_ = os.Remove(filepath.Join(i.Dir, clientsDir))
	if i.before.Immutable {
		if err := setImmutable(file, true); err != nil {
			return err
		}
	}
	return os.Remove(kept)
}

func writeJSON(path string, what any) error {
	content, err := json.MarshalIndent(what, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return renameio.WriteFile(path, append(content, '\n'), 0o600)
}

// commit makes everything durable.
func commit(base string) error {
	dir, err := os.Open(base)
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.Syncfs(int(dir.Fd()))
}

func immutable(path string) (bool, error) {
	file, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer file.Close()
	return btrfs.Immutable(file)
}

func setImmutable(path string, on bool) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return btrfs.SetImmutable(file, on)
}
