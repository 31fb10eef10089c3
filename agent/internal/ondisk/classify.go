package ondisk

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// What a directory is follows from its contents. The start of the agent, a reload after a failure
// and the check command all use classify, so that they agree.
//
// The agent removes a directory only if its mark proves that the directory is incomplete or partly
// deleted. It removes only what it put there. Anything that may contain data is quarantined until
// an administrator decides.

// state is the state of a directory.
type state int

// States of a directory.
const (
	// whole is a complete volume or snapshot.
	whole state = iota
	// interruptedCreation is incomplete. No caller got a reply that it exists.
	interruptedCreation
	// interruptedDeletion is partly deleted. A caller requested its deletion.
	interruptedDeletion
	// quarantined may contain data, and is not what a working agent leaves. It keeps its name.
	quarantined
	// notOurs is not a volume, a snapshot or a part of one.
	notOurs
)

// place is the meaning of the name of a directory.
type place int

// Places. The agent uses the names staging and trash for what it creates and deletes.
const (
	named   place = iota // a name that a volume can have
	staging              // see stagingPrefix
	trash                // see trashPrefix
	unnamed              // a name that no volume can have
)

// metadataState is the state of the metadata file.
type metadataState int

// States of metadata.
const (
	noMetadata  metadataState = iota
	badMetadata               // damaged, with another name, or of a newer agent
	goodMetadata
)

// dataState is the state of the subvolume.
type dataState int

// States of data.
const (
	noData       dataState = iota
	badData                // not a subvolume, or one that cannot be opened
	replacedData           // a subvolume other than the one in the metadata
	ownData                // the one in the metadata, or any if the metadata names none
)

// referencesState is the state of the references of clients.
type referencesState int

// States of references.
const (
	noReferences referencesState = iota
	someReferences
	badReferences // at least one cannot be read
)

// Mark is the mark of the agent on the metadata file: see Mark.Time.
type Mark int

// Marks.
const (
	NoMark   Mark = iota
	Creating      // the data does not exist yet
	Deleting
)

// contents is what was found in a directory.
type contents struct {
	place      place
	mark       Mark
	file       metadataState
	data       dataState
	references referencesState

	// others is the name of a file that the agent does not put into such a directory, or "".
	others string

	// problems says what is wrong with metadata, data or references, or is "".
	problems string
}

// classify determines the state of the directory. The reason is text for administrators, and "" if
// the state says everything.
func classify(d contents) (state state, reason string) {
	switch d.place {
	case staging, trash:
		return classifyTemporary(d), ""
	case unnamed:
		if d.isEmpty() {
			return notOurs, ""
		}
		return quarantined, d.problems
	}
	switch d.data {
	case noData:
		return classifyWithoutData(d)
	case badData:
		return quarantined, d.problems
	default:
		return classifyWithData(d)
	}
}

// isEmpty reports whether the directory has nothing of a volume: no metadata, no subvolume and no
// references.
func (d contents) isEmpty() bool {
	return d.file == noMetadata && d.data <= badData && d.references == noReferences
}

// classifyTemporary classifies directories with a name that only the agent uses. While they have
// the mark Creating, the agent puts no data there.
func classifyTemporary(d contents) state {
	switch {
	case d.data == badData, d.data == replacedData, d.mark == Creating && d.data != noData:
		return notOurs
	case d.data == noData && d.isEmpty() && d.others != "":
		return notOurs // the rest of a deletion, which the agent did not create
	case d.place == trash:
		return interruptedDeletion
	case d.references != noReferences, d.others != "":
		return notOurs
	default:
		return interruptedCreation
	}
}

func classifyWithData(d contents) (state, string) {
	switch {
	case d.file != goodMetadata, d.references == badReferences:
		return quarantined, d.problems
	case d.mark == Deleting && d.data == replacedData:
		return quarantined, "its deletion was interrupted, and the data is another subvolume than was to be deleted"
	case d.mark == Deleting && d.references == someReferences:
		return quarantined, "its deletion was interrupted, and it has references of clients since"
	case d.mark == Deleting:
		return interruptedDeletion, ""
	default:
		return whole, "" // an administrator has restored the data
	}
}

func classifyWithoutData(d contents) (state, string) {
	switch {
	case d.isEmpty():
		return notOurs, ""
	case d.file != goodMetadata, d.references == badReferences:
		return quarantined, "its subvolume is missing, and " + d.problems
	case d.references != noReferences:
		return quarantined, "its subvolume is missing, and clients have references to it"
	case d.mark != NoMark && d.others != "":
		return quarantined, fmt.Sprintf("its subvolume is missing, and it holds %q, which the agent did not make", d.others)
	case d.mark == Creating:
		return interruptedCreation, ""
	case d.mark == Deleting:
		return interruptedDeletion, ""
	default:
		return quarantined, "its subvolume is missing"
	}
}

// Prefixes of the names of directories that the agent creates or deletes. 16 random hexadecimal
// digits follow.
const (
	stagingPrefix = ".new-"
	trashPrefix   = ".trash-"
)

// randomBytes is how many random bytes a temporary name has.
const randomBytes = 8

// placeOf returns the meaning of a name.
func placeOf(name string) place {
	switch {
	case isTemporary(name, stagingPrefix):
		return staging
	case isTemporary(name, trashPrefix):
		return trash
	case id.ValidateName(name) == nil:
		return named
	default:
		return unnamed
	}
}

func isTemporaryName(name string) bool {
	return isTemporary(name, stagingPrefix) || isTemporary(name, trashPrefix)
}

func isTemporary(name, prefix string) bool {
	random, found := strings.CutPrefix(name, prefix)
	if !found {
		return false
	}
	b, err := hex.DecodeString(random)
	return err == nil && len(b) == randomBytes
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

// markOf returns the mark of a metadata file.
func markOf(content []byte, modified time.Time) Mark {
	sum := sha256.Sum256(content)
	for _, mark := range []Mark{Creating, Deleting} {
		if modified.Equal(mark.time(sum)) {
			return mark
		}
	}
	return NoMark
}
