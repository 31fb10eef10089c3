package ondisk

// An older agent ignores unknown fields. It must not ignore a field that protects data, so such a
// field raises the version of its file. An older agent then quarantines the volume. A file has the
// lowest version that covers its set fields, so that an older agent accepts what it understands.
// docs/upgrade.md describes the way back from each version.

const (
	metadataVersion = 2 // newest version of metadata.json that this agent reads
	refVersion      = 2 // newest version of the file of a reference
)

// protectingField is a field that an agent must not ignore, with the version that introduced it.
type protectingField[T any] struct {
	name    string
	version int
	isSet   func(T) bool
}

var protectingMetadata = []protectingField[Metadata]{
	{"root_squash", 1, func(m Metadata) bool { return m.RootSquash }},
	{"changes", 2, func(m Metadata) bool { return len(m.Changes) > 0 }},
}

var protectingRefs = []protectingField[Ref]{
	{"read_only", 1, func(r Ref) bool { return r.ReadOnly }},
	{"fsid", 2, func(r Ref) bool { return r.Attachment != Attachment{} }},
}

// lowestVersion returns the lowest version that covers the set fields.
func lowestVersion[T any](fields []protectingField[T], file T) int {
	version := 1
	for _, field := range fields {
		if field.isSet(file) {
			version = max(version, field.version)
		}
	}
	return version
}

func (m Metadata) version() int { return lowestVersion(protectingMetadata, m) }

// FileVersions returns the version of the metadata of the volume, and the newest version of its
// references. Those of snapshots have version 1: none has a field of version 2.
func (v Volume) FileVersions() (metadata, refs int) {
	refs = 1
	for _, ref := range v.Refs {
		refs = max(refs, lowestVersion(protectingRefs, ref))
		if ref.Ended {
			refs = refVersion // 57e475d does not know the name of the file either
		}
	}
	return v.Metadata().version(), refs
}
