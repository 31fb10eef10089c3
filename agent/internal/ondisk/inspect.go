package ondisk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/openat2"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// inspected is the state of a directory, and what was read from it.
type inspected struct {
	contents
	state  state
	reason string

	metadata Metadata
	info     btrfs.SubvolumeInfo
	refs     []Ref
}

// inspect determines the state of a volume or snapshot.
func (d *Directory) inspect(name string) inspected {
	f := inspected{contents: contents{place: placeOf(name)}}
	dir, err := openat2.OpenDir(d.dir, name)
	switch {
	case isErrno(err, unix.ENOENT), isErrno(err, unix.ENOTDIR) && !isLink(d.dir, name):
		return inspected{state: notOurs}
	case err != nil && f.place != named:
		d.disk.Log.Warn("failed to inspect a directory", "path", d.dir.Name()+"/"+name, "error", err)
		return inspected{state: notOurs}
	case err != nil:
		return unreadable(err)
	}
	defer dir.Close()

	var problems []string
	otherName := false
	note := func(err error) {
		problems = append(problems, err.Error())
		otherName = otherName || errors.Is(err, errOtherName)
	}
	if f.place == unnamed {
		note(fmt.Errorf("the directory's name %w", id.ValidateName(name)))
	}
	f.metadata, f.file, f.mark = lookAtMetadata(dir, name, f.place, note)
	f.info, f.data = d.disk.lookAtData(dir, f.metadata, note)
	if !d.snapshots {
		f.refs, f.references = lookAtReferences(dir, note)
		if otherName { // they give clients access to that volume, and an unpublish must be able to end it
			f.refs = allEnded(f.refs)
		}
	}
	if f.data == noData || f.place != named {
		if f.others, err = others(dir); err != nil {
			return unreadable(err)
		}
	}
	f.problems = strings.Join(problems, ", ")
	f.state, f.reason = classify(f.contents)
	return f
}

func unreadable(err error) inspected {
	return inspected{contents: contents{references: badReferences}, state: quarantined, reason: err.Error()}
}

// isLink recognizes a symbolic link. It may lead to the place to which an administrator moved a
// volume.
func isLink(dir *os.File, name string) bool {
	var stat unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), name, &stat, unix.AT_SYMLINK_NOFOLLOW)
	return err == nil && stat.Mode&unix.S_IFMT == unix.S_IFLNK
}

func lookAtMetadata(dir *os.File, name string, place place, note func(error)) (Metadata, metadataState, Mark) {
	m, mark, err := ReadMetadata(dir)
	if err == nil && place == named {
		err = m.IsOf(name)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		note(errors.New(MetadataFile + " is missing"))
		return Metadata{}, noMetadata, NoMark
	case err != nil:
		note(err)
		return Metadata{}, badMetadata, NoMark
	default:
		return m, goodMetadata, mark
	}
}

func (d *Disk) lookAtData(dir *os.File, m Metadata, note func(error)) (btrfs.SubvolumeInfo, dataState) {
	info, known := d.index.Of(dir)
	if !known {
		data, opened, err := d.openSubvolume(dir)
		if errors.Is(err, os.ErrNotExist) {
			return info, noData
		}
		if err != nil {
			note(err)
			return info, badData
		}
		data.Close()
		info = opened
	}
	if m.namesOther(info.UUID) {
		return info, replacedData
	}
	return info, ownData
}

func lookAtReferences(dir *os.File, note func(error)) ([]Ref, referencesState) {
	refs, err := ReadRefs(dir)
	switch {
	case err != nil:
		note(err)
		return refs, badReferences
	case len(refs) > 0:
		return refs, someReferences
	default:
		return nil, noReferences
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
	names, err := readDir(dir)
	slices.Sort(names)
	for _, name := range names {
		if !slices.Contains([]string{DataDir, MetadataFile, MetadataFile + TemporarySuffix, ClientsDir}, name) {
			return name, err
		}
	}
	return "", err
}
