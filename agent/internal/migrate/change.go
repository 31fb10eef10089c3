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
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/openat2"
)

// state is the original state of an item, stored in keptDir as JSON.
type state struct {
	Content   string   `json:"metadata"`
	Immutable bool     `json:"immutable"`
	Writable  bool     `json:"writable"` // a snapshot with writable data
	Refs      []string `json:"refs"`     // files that the migration created in clients

	uuid uuid.UUID
}

// Apply executes the plan, one item after the other. It can be interrupted and repeated, and skips
// finished work. If an item fails, the others continue, and the next run tries it again.
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
	dir, err := i.open(base)
	if err != nil {
		return err
	}
	defer dir.Close()
	refs := i.old.adoptedRefs()
	for _, r := range refs {
		i.before.Refs = append(i.before.Refs, r.FileName())
	}
	// In this order, the older agent finds its metadata until the last step. The original state is
	// stored before that.
	if err := i.keep(base); err != nil {
		return err
	}
	if i.before.Immutable {
		if err := setImmutable(dir, false); err != nil {
			return err
		}
	}
	if err := i.setReadOnly(dir, true); err != nil {
		return err
	}
	if err := writeRefs(dir, refs); err != nil {
		return err
	}
	content, err := encode(i.old.adopted(i.before.uuid))
	if err != nil {
		return err
	}
	return writeFile(dir, ondisk.MetadataFile, content)
}

func (i *Item) open(base string) (*os.File, error) {
	root, err := os.Open(base)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return openat2.OpenDir(root, i.path())
}

func (i *Item) setReadOnly(dir *os.File, readOnly bool) error {
	if !i.before.Writable {
		return nil
	}
	data, err := openat2.OpenDir(dir, ondisk.DataDir)
	if err != nil {
		return err
	}
	defer data.Close()
	return btrfs.SetReadOnly(data, readOnly)
}

func writeRefs(dir *os.File, refs []ondisk.Ref) error {
	if len(refs) == 0 {
		return nil
	}
	if err := unix.Mkdirat(int(dir.Fd()), ondisk.ClientsDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("create %s: %w", ondisk.ClientsDir, err)
	}
	clients, err := openat2.OpenDir(dir, ondisk.ClientsDir)
	if err != nil {
		return err
	}
	defer clients.Close()
	for _, r := range refs {
		content, err := r.Encode()
		if err != nil {
			return err
		}
		if err := writeFile(clients, r.FileName(), content); err != nil {
			return err
		}
	}
	return nil
}

func (i *Item) kept(base string) string { return filepath.Join(base, keptDir, i.path()+".json") }

// keep never replaces the state that an earlier try has stored, because that is the original.
func (i *Item) keep(base string) error {
	kept := i.kept(base)
	if _, err := os.Stat(kept); err == nil {
		return nil
	}
	content, err := encode(i.before)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(kept), 0o700); err != nil {
		return err
	}
	return renameio.WriteFile(kept, content, 0o600)
}

// Undo restores everything that a migration has stored. Deleted volumes stay deleted, and newer
// ones do not change.
func Undo(base string, progress func(Item)) error {
	root := filepath.Join(base, keptDir)
	var failed []error
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		item, err := itemOf(base, root, path)
		if err == nil {
			err = item.undo(base, path)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", path, err))
		}
		item.Done = err == nil
		progress(item)
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("the pool has no migration to undo")
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

func (i *Item) undo(base, kept string) error {
	dir, err := i.open(base)
	if errors.Is(err, fs.ErrNotExist) {
		return os.Remove(kept)
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	// If it is still immutable, the migration was interrupted before it, or the undo after it.
	if now, err := immutable(dir); err != nil || !now {
		if err := writeFile(dir, ondisk.MetadataFile, []byte(i.before.Content)); err != nil {
			return err
		}
	}
	if err := i.setReadOnly(dir, false); err != nil {
		return err
	}
	if err := i.removeRefs(dir); err != nil {
		return err
	}
	if i.before.Immutable {
		if err := setImmutable(dir, true); err != nil {
			return err
		}
	}
	return os.Remove(kept)
}

func (i *Item) removeRefs(dir *os.File) error {
	clients, err := openat2.OpenDir(dir, ondisk.ClientsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer clients.Close()
	for _, name := range i.before.Refs {
		if err := remove(clients, name); err != nil {
			return err
		}
	}
	// References that were created since keep the directory, and the older agent ignores it.
	_ = unix.Unlinkat(int(dir.Fd()), ondisk.ClientsDir, unix.AT_REMOVEDIR)
	return nil
}

func encode(what any) ([]byte, error) {
	content, err := json.MarshalIndent(what, "", "  ")
	return append(content, '\n'), err
}

// commit makes all changes durable.
func commit(base string) error {
	dir, err := os.Open(base)
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.Syncfs(int(dir.Fd()))
}

// immutable reads the flag of the metadata in dir.
func immutable(dir *os.File) (bool, error) {
	file, err := openat2.OpenFile(dir, ondisk.MetadataFile)
	if err != nil {
		return false, err
	}
	defer file.Close()
	return btrfs.Immutable(file)
}

func setImmutable(dir *os.File, on bool) error {
	file, err := openat2.OpenFile(dir, ondisk.MetadataFile)
	if err != nil {
		return err
	}
	defer file.Close()
	return btrfs.SetImmutable(file, on)
}
