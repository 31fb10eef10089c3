package ondisk

// An older agent ignores unknown fields. It must not ignore a field that protects data, so such a
// field raises the version of its file. An older agent then quarantines the volume. A file has the
// lowest version that covers its set fields, so that an older agent accepts what it understands.
// docs/upgrade.md describes the way back from each version.

const (
	metadataVersion = 2 // newest version of metadata.json that this agent reads
	refVersion      = 2 // newest version of the file of a reference
)

// version returns the lowest version that covers the set fields.
func (m Metadata) version() int {
	if len(m.Changes) > 0 {
		return 2
	}
	return 1
}

func (r Ref) version() int {
	if r.Attachment == (Attachment{}) {
		return 1
	}
	return 2
}

// FileVersions returns the version of the metadata of the volume, and the newest version of its
// references. Those of snapshots have version 1: none has a field of version 2.
func (v Volume) FileVersions() (metadata, refs int) {
	refs = 1
	for _, ref := range v.Refs {
		refs = max(refs, ref.version())
		if ref.Ended {
			refs = refVersion // 57e475d does not know the name of the file either
		}
	}
	return v.Metadata().version(), refs
}
