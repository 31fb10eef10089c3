package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/beneath"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/inspect"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// inspected is the state of a directory, and what was read from it.
type inspected struct {
	state  inspect.State
	reason string

	place      inspect.Place
	mark       inspect.Mark
	data       inspect.Data
	references inspect.References

	metadata ondisk.Metadata
	info     btrfs.SubvolumeInfo
	refs     []Ref
	volume   Volume   // if the directory is a complete volume
	snapshot Snapshot // if the directory is a complete snapshot
}

// inspect determines the state of name in a directory of volumes or snapshots.
func (t *Tenant) inspect(parent *os.File, name string) inspected {
	place := inspect.PlaceOf(name, id.ValidateName)
	dir, err := beneath.OpenDir(parent, name)
	switch {
	case ondisk.IsErrno(err, unix.ENOENT), ondisk.IsErrno(err, unix.ENOTDIR) && !isLink(parent, name):
		return inspected{state: inspect.NotOurs}
	case err != nil && place != inspect.Named:
		t.store.log.Warn("failed to inspect a directory", "path", parent.Name()+"/"+name, "error", err)
		return inspected{state: inspect.NotOurs}
	case err != nil:
		return inspected{state: inspect.Quarantined, reason: err.Error(), references: inspect.BadReferences}
	}
	defer dir.Close()

	var f inspected
	d := inspect.Directory{Place: place}
	var reasons []string
	otherName := false
	note := func(err error) {
		reasons = append(reasons, err.Error())
		otherName = otherName || errors.Is(err, ondisk.ErrOtherName)
	}
	if place == inspect.Unnamed {
		note(fmt.Errorf("the directory's name %w", id.ValidateName(name)))
	}
	f.metadata, d.Metadata, d.Mark = lookAtMetadata(dir, name, place, note)
	f.info, d.Data = t.lookAtData(dir, f.metadata, note)
	if parent == t.dir {
		f.refs, d.References = lookAtReferences(dir, note)
		if otherName { // they give clients access to that volume, and an unpublish must be able to end it
			f.refs = allEnded(f.refs)
		}
	}
	if d.Metadata == inspect.GoodMetadata && place == inspect.Named {
		if f.volume, f.snapshot, err = t.decode(parent, f.metadata); err != nil {
			note(err)
			d.Metadata = inspect.BadMetadata
		}
	}
	if d.Data == inspect.NoData || place != inspect.Named {
		if d.Others, err = others(dir); err != nil {
			return inspected{state: inspect.Quarantined, reason: err.Error(), references: inspect.BadReferences}
		}
	}
	d.Reason = strings.Join(reasons, ", ")
	f.place, f.mark, f.data, f.references = d.Place, d.Mark, d.Data, d.References
	f.state, f.reason = inspect.Classify(d)
	return f
}

// isLink recognizes a symbolic link. It may lead to the place to which an administrator moved a
// volume.
func isLink(dir *os.File, name string) bool {
	var stat unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), name, &stat, unix.AT_SYMLINK_NOFOLLOW)
	return err == nil && stat.Mode&unix.S_IFMT == unix.S_IFLNK
}

func (t *Tenant) decode(parent *os.File, m ondisk.Metadata) (v Volume, s Snapshot, err error) {
	if parent == t.dir {
		v, err = m.AsVolume()
	} else {
		s, err = m.AsSnapshot()
	}
	return v, s, err
}

func lookAtMetadata(dir *os.File, name string, place inspect.Place, note func(error)) (ondisk.Metadata, inspect.Metadata, inspect.Mark) {
	m, mark, err := ondisk.ReadMarkedMetadata(dir)
	if err == nil && place == inspect.Named {
		err = m.IsOf(name)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		note(errors.New(ondisk.MetadataFile + " is missing"))
		return ondisk.Metadata{}, inspect.NoMetadata, inspect.NoMark
	case err != nil:
		note(err)
		return ondisk.Metadata{}, inspect.BadMetadata, inspect.NoMark
	default:
		return m, inspect.GoodMetadata, mark
	}
}

func (t *Tenant) lookAtData(dir *os.File, m ondisk.Metadata, note func(error)) (btrfs.SubvolumeInfo, inspect.Data) {
	info, known := t.store.index.Of(dir)
	if !known {
		data, opened, err := t.store.disk.OpenSubvolume(dir)
		if errors.Is(err, os.ErrNotExist) {
			return info, inspect.NoData
		}
		if err != nil {
			note(err)
			return info, inspect.BadData
		}
		data.Close()
		info = opened
	}
	if m.NamesOther(info.UUID) {
		return info, inspect.ReplacedData
	}
	return info, inspect.OwnData
}

func lookAtReferences(dir *os.File, note func(error)) ([]Ref, inspect.References) {
	refs, err := ondisk.ReadRefs(dir)
	switch {
	case err != nil:
		note(err)
		return refs, inspect.BadReferences
	case len(refs) > 0:
		return refs, inspect.SomeReferences
	default:
		return nil, inspect.NoReferences
	}
}

func allEnded(refs []Ref) []Ref {
	refs = slices.Clone(refs)
	for i := range refs {
		refs[i].Ended = true
	}
	return refs
}

// others returns the name of a file in the directory of a volume that the agent does not create, or
// "".
func others(dir *os.File) (string, error) {
	names, err := ondisk.ReadDir(dir)
	slices.Sort(names)
	for _, name := range names {
		if !slices.Contains([]string{ondisk.DataDir, ondisk.MetadataFile, ondisk.MetadataFile + ondisk.TemporarySuffix, ondisk.ClientsDir}, name) {
			return name, err
		}
	}
	return "", err
}
