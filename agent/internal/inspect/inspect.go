// Package inspect decides what a directory of a tenant is, from what is on disk. The start of
// the agent, a reload after a failure and the check command decide by it, so that they agree.
//
// A directory is removed only where the agent's own mark proves that it is half made or half
// deleted, and only what the agent put there is removed. Whatever else may hold data is
// quarantined until an administrator decides.
package inspect

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// State is what a directory is.
type State int

// States of a directory.
const (
	// Whole is a volume or a snapshot.
	Whole State = iota
	// InterruptedCreation is half made. No caller was told that it exists.
	InterruptedCreation
	// InterruptedDeletion is half deleted. Its deletion was asked for.
	InterruptedDeletion
	// Quarantined may hold data, and is not what a working agent leaves. It keeps its name.
	Quarantined
	// NotOurs is not a volume, a snapshot or a part of one.
	NotOurs
)

// Place is what the name of a directory tells.
type Place int

// Places. The agent gives the names Staging and Trash to what it makes and deletes.
const (
	Named   Place = iota // a name that a volume can have
	Staging              // see StagingPrefix
	Trash                // see TrashPrefix
	Unnamed              // a name that no volume can have
)

// Metadata is what was found of the metadata file.
type Metadata int

// Findings of metadata.
const (
	NoMetadata  Metadata = iota
	BadMetadata          // damaged, of another name, or of a newer agent
	GoodMetadata
)

// Data is what was found under the name of the subvolume.
type Data int

// Findings of data.
const (
	NoData       Data = iota
	BadData           // no subvolume, or one that cannot be opened
	ReplacedData      // another subvolume than the metadata names
	OwnData           // the one that the metadata names, or any where the metadata names none
)

// References is what was found of the clients' references.
type References int

// Findings of references.
const (
	NoReferences References = iota
	SomeReferences
	BadReferences // of which at least one cannot be read
)

// Mark is what the agent has noted on the metadata file: see Mark.Time.
type Mark int

// Marks.
const (
	NoMark   Mark = iota
	Creating      // the data is still to come
	Deleting
)

// Directory is what was found in a directory, without a judgement.
type Directory struct {
	Place      Place
	Mark       Mark
	Metadata   Metadata
	Data       Data
	References References

	// Others is a name of something that the agent does not put into such a directory, or "".
	Others string

	// Reason says what is wrong with metadata, data or references, where something is.
	Reason string
}

// Classify decides what the directory is. The reason is for people, and "" where the state says
// everything.
func Classify(d Directory) (state State, reason string) {
	switch d.Place {
	case Staging, Trash:
		return classifyTemporary(d), ""
	case Unnamed:
		if d.isEmpty() {
			return NotOurs, ""
		}
		return Quarantined, d.Reason
	}
	switch d.Data {
	case NoData:
		return classifyWithoutData(d)
	case BadData:
		return Quarantined, d.Reason
	default:
		return classifyWithData(d)
	}
}

// isEmpty reports whether nothing in the directory is a volume's: neither metadata nor a
// subvolume nor references.
func (d Directory) isEmpty() bool {
	return d.Metadata == NoMetadata && d.Data <= BadData && d.References == NoReferences
}

// classifyTemporary decides on directories with a name that only the agent gives. While they
// have the mark Creating, it puts no data there.
func classifyTemporary(d Directory) State {
	switch {
	case d.Data == BadData, d.Data == ReplacedData, d.Mark == Creating && d.Data != NoData:
		return NotOurs
	case d.Data == NoData && d.isEmpty() && d.Others != "":
		return NotOurs // what a deletion has left, because it is not the agent's
	case d.Place == Trash:
		return InterruptedDeletion
	case d.References != NoReferences, d.Others != "":
		return NotOurs
	default:
		return InterruptedCreation
	}
}

func classifyWithData(d Directory) (State, string) {
	switch {
	case d.Metadata != GoodMetadata, d.References == BadReferences:
		return Quarantined, d.Reason
	case d.Mark == Deleting && d.Data == ReplacedData:
		return Quarantined, "its deletion was interrupted, and the data is another subvolume than was to be deleted"
	case d.Mark == Deleting && d.References == SomeReferences:
		return Quarantined, "its deletion was interrupted, and it has references of clients since"
	case d.Mark == Deleting:
		return InterruptedDeletion, ""
	default:
		return Whole, "" // replaced data is what an administrator has restored
	}
}

func classifyWithoutData(d Directory) (State, string) {
	switch {
	case d.isEmpty():
		return NotOurs, ""
	case d.Metadata != GoodMetadata, d.References == BadReferences:
		return Quarantined, "its subvolume is missing, and " + d.Reason
	case d.References != NoReferences:
		return Quarantined, "its subvolume is missing, and clients have references to it"
	case d.Mark != NoMark && d.Others != "":
		return Quarantined, fmt.Sprintf("its subvolume is missing, and it holds %q, which the agent did not make", d.Others)
	case d.Mark == Creating:
		return InterruptedCreation, ""
	case d.Mark == Deleting:
		return InterruptedDeletion, ""
	default:
		return Quarantined, "its subvolume is missing"
	}
}

// Prefixes of the names that the agent gives to directories that it makes or deletes. 16
// hexadecimal digits follow, which are random.
const (
	StagingPrefix = ".new-"
	TrashPrefix   = ".trash-"
)

// RandomBytes is how many random bytes a temporary name has.
const RandomBytes = 8

// PlaceOf tells what a name means; valid reports whether a volume can have the name.
func PlaceOf(name string, valid func(name string) error) Place {
	switch {
	case isTemporary(name, StagingPrefix):
		return Staging
	case isTemporary(name, TrashPrefix):
		return Trash
	case valid(name) == nil:
		return Named
	default:
		return Unnamed
	}
}

func isTemporary(name, prefix string) bool {
	random, found := strings.CutPrefix(name, prefix)
	if !found {
		return false
	}
	b, err := hex.DecodeString(random)
	return err == nil && len(b) == RandomBytes
}

// Time is the modification time that carries the mark on a metadata file with the content. It
// can be set on a file system that is too full to create or to rename a file. No clock sets it
// by chance: its 62 bits are of a checksum of the content. Writing the file removes the mark.
func (m Mark) Time(content []byte) time.Time { return m.time(sha256.Sum256(content)) }

// time takes 8 bytes of the checksum, others for each mark.
func (m Mark) time(sum [sha256.Size]byte) time.Time {
	part := sum[8*m:]
	seconds := binary.BigEndian.Uint32(part)
	nanoseconds := binary.BigEndian.Uint32(part[4:]) % uint32(time.Second)
	return time.Unix(int64(seconds), int64(nanoseconds))
}

// MarkOf is the mark that a metadata file carries.
func MarkOf(content []byte, modified time.Time) Mark {
	sum := sha256.Sum256(content)
	for _, mark := range []Mark{Creating, Deleting} {
		if modified.Equal(mark.time(sum)) {
			return mark
		}
	}
	return NoMark
}
