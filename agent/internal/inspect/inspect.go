// Package inspect determines the state of a directory of a tenant from what is on disk. The start
// of the agent, a reload after a failure and the check command all use it, so that they agree.
//
// The agent removes a directory only if its mark proves that the directory is incomplete or partly
// deleted. It removes only what it put there. Anything that may contain data is quarantined until
// an administrator decides.
package inspect

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// State is the state of a directory.
type State int

// States of a directory.
const (
	// Whole is a complete volume or snapshot.
	Whole State = iota
	// InterruptedCreation is incomplete. No caller got a reply that it exists.
	InterruptedCreation
	// InterruptedDeletion is partly deleted. A caller requested its deletion.
	InterruptedDeletion
	// Quarantined may contain data, and is not what a working agent leaves. It keeps its name.
	Quarantined
	// NotOurs is not a volume, a snapshot or a part of one.
	NotOurs
)

// Place is the meaning of the name of a directory.
type Place int

// Places. The agent uses the names Staging and Trash for what it creates and deletes.
const (
	Named   Place = iota // a name that a volume can have
	Staging              // see StagingPrefix
	Trash                // see TrashPrefix
	Unnamed              // a name that no volume can have
)

// Metadata is the state of the metadata file.
type Metadata int

// States of metadata.
const (
	NoMetadata  Metadata = iota
	BadMetadata          // damaged, with another name, or of a newer agent
	GoodMetadata
)

// Data is the state of the subvolume.
type Data int

// States of data.
const (
	NoData       Data = iota
	BadData           // not a subvolume, or one that cannot be opened
	ReplacedData      // a subvolume other than the one in the metadata
	OwnData           // the one in the metadata, or any if the metadata names none
)

// References is the state of the references of clients.
type References int

// States of references.
const (
	NoReferences References = iota
	SomeReferences
	BadReferences // at least one cannot be read
)

// Mark is the mark of the agent on the metadata file: see Mark.Time.
type Mark int

// Marks.
const (
	NoMark   Mark = iota
	Creating      // the data does not exist yet
	Deleting
)

// Directory is what was found in a directory.
type Directory struct {
	Place      Place
	Mark       Mark
	Metadata   Metadata
	Data       Data
	References References

	// Others is the name of a file that the agent does not put into such a directory, or "".
	Others string

	// Reason says what is wrong with metadata, data or references, or is "".
	Reason string
}

// Classify determines the state of the directory. The reason is text for administrators, and "" if
// the state says everything.
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

// isEmpty reports whether the directory has nothing of a volume: no metadata, no subvolume and no
// references.
func (d Directory) isEmpty() bool {
	return d.Metadata == NoMetadata && d.Data <= BadData && d.References == NoReferences
}

// classifyTemporary classifies directories with a name that only the agent uses. While they have
// the mark Creating, the agent puts no data there.
func classifyTemporary(d Directory) State {
	switch {
	case d.Data == BadData, d.Data == ReplacedData, d.Mark == Creating && d.Data != NoData:
		return NotOurs
	case d.Data == NoData && d.isEmpty() && d.Others != "":
		return NotOurs // the rest of a deletion, which the agent did not create
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
		return Whole, "" // an administrator has restored the data
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

// Prefixes of the names of directories that the agent creates or deletes. 16 random hexadecimal
// digits follow.
const (
	StagingPrefix = ".new-"
	TrashPrefix   = ".trash-"
)

// RandomBytes is how many random bytes a temporary name has.
const RandomBytes = 8

// PlaceOf returns the meaning of a name. valid reports whether a volume can have the name.
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

// Time returns the modification time that marks a metadata file with this content. It can be set on
// a filesystem that is too full to create or to rename a file. A clock does not set it by chance:
// it has 62 bits of a checksum of the content. A write of the file removes the mark.
func (m Mark) Time(content []byte) time.Time { return m.time(sha256.Sum256(content)) }

// time uses 8 bytes of the checksum, different ones for each mark.
func (m Mark) time(sum [sha256.Size]byte) time.Time {
	part := sum[8*m:]
	seconds := binary.BigEndian.Uint32(part)
	nanoseconds := binary.BigEndian.Uint32(part[4:]) % uint32(time.Second)
	return time.Unix(int64(seconds), int64(nanoseconds))
}

// MarkOf returns the mark of a metadata file.
func MarkOf(content []byte, modified time.Time) Mark {
	sum := sha256.Sum256(content)
	for _, mark := range []Mark{Creating, Deleting} {
		if modified.Equal(mark.time(sum)) {
			return mark
		}
	}
	return NoMark
}
