package storage

import "fmt"

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

var protectingMetadata = []protectingField[metadata]{
	{"root_squash", 1, func(m metadata) bool { return m.RootSquash }},
	{"changes", 2, func(m metadata) bool { return len(m.Changes) > 0 }},
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

func (m metadata) version() int { return lowestVersion(protectingMetadata, m) }

// newerFiles lists the volumes and snapshots that an agent of 57e475d quarantines.
func (s *Store) newerFiles() []Finding {
	var out []Finding
	note := func(kind FindingKind, path string, version int) {
		if version > 1 {
			out = append(out, Finding{Kind: kind, Path: path, Detail: fmt.Sprintf("version %d", version)})
		}
	}
	for _, t := range s.Tenants() {
		for _, v := range t.volumes.all() {
			note(NewerMetadata, v.Path, v.metadata().version())
			newest := 1
			for _, ref := range v.Refs {
				newest = max(newest, lowestVersion(protectingRefs, ref))
				if ref.Ended {
					newest = refVersion // 57e475d does not know the name of the file either
				}
			}
			note(NewerReference, v.Path, newest)
		}
		for _, snapshot := range t.snapshots.all() {
			note(NewerMetadata, snapshot.Path, snapshot.metadata().version())
		}
	}
	return out
}
