package ondisk

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/labels"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/openat2"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// Names on disk: docs/architecture.md, "On disk".
const (
	DataDir         = agentapi.DataDir
	SnapshotsDir    = "snapshots"
	MetadataFile    = "metadata.json"
	ClientsDir      = "clients" // in the directory of a volume: one file for each reference
	TemporarySuffix = ".new"
)

// Metadata is the content of metadata.json of a volume or snapshot. It describes the intended
// state. It contains neither the kernel's counts nor references (see refs.go).
type Metadata struct {
	Version  int       `json:"version"`
	Name     string    `json:"name"`
	VolumeID uuid.UUID `json:"volume_id,omitzero"` // of the volume, also in a snapshot
	UUID     uuid.UUID `json:"uuid,omitzero"`      // of data; absent if data is a snapshot created after this file
	Properties
	Mode           string     `json:"mode"` // octal text
	Labels         labels.Set `json:"labels,omitempty"`
	Volume         string     `json:"volume,omitempty"` // in a snapshot: its volume
	MountOptions   []string   `json:"mount_options,omitempty"`
	Nested         []string   `json:"nested_subvolumes,omitempty"` // in a snapshot: subvolumes that it omits
	SourceVolume   string     `json:"source_volume,omitempty"`     // in a clone: its source volume
	SourceSnapshot string     `json:"source_snapshot,omitempty"`   // in a clone: its source snapshot
	SourceVolumeID uuid.UUID  `json:"source_volume_id,omitzero"`
	CreatedAt      time.Time  `json:"created_at"`
	UpdatedAt      time.Time  `json:"updated_at"`
	LastAttachAt   time.Time  `json:"last_attach_at,omitzero"`

	Changes    PendingChanges `json:"changes,omitempty"`   // running, or not undone yet: see storage/change.go
	Unfinished Changed        `json:"unfinished,omitzero"` // the same, written by 57e475d
}

func (m Metadata) properties() Properties {
	mode, _ := strconv.ParseUint(m.Mode, 8, 32) // see validate
	p := m.Properties
	p.Mode = uint32(mode)
	return p
}

func (m *Metadata) setProperties(p Properties) {
	m.Properties, m.Mode = p, strconv.FormatUint(uint64(p.Mode), 8)
}

// Metadata returns the metadata of the volume.
func (v Volume) Metadata() Metadata {
	m := Metadata{
		Name: v.Name, VolumeID: v.VolumeID, UUID: v.UUID, Labels: v.Labels, MountOptions: v.MountOptions,
		SourceVolume: v.SourceVolume, SourceSnapshot: v.SourceSnapshot, SourceVolumeID: v.SourceVolumeID,
		CreatedAt: v.CreatedAt, UpdatedAt: v.UpdatedAt, LastAttachAt: v.LastAttachAt,
		Changes: v.Pending,
	}
	m.setProperties(v.Properties)
	return m
}

// Metadata returns the metadata of the snapshot.
func (s Snapshot) Metadata() Metadata {
	m := Metadata{
		Name: s.Name, VolumeID: s.VolumeID, UUID: s.UUID, Labels: s.Labels, Volume: s.Volume, Nested: s.Nested,
		CreatedAt: s.CreatedAt, UpdatedAt: s.UpdatedAt,
	}
	m.setProperties(s.Properties)
	return m
}

// AsVolume returns the volume that the metadata describes.
func (m Metadata) AsVolume() Volume {
	p := m.properties()
	changes := m.Changes
	if m.Unfinished != (Changed{}) {
		changes = append(changes, Change{To: m.Unfinished.Of(p)})
	}
	return Volume{
		Pending: changes, Name: m.Name, VolumeID: m.ownVolumeID(), UUID: m.UUID, Properties: p,
		Labels: m.Labels, MountOptions: m.MountOptions,
		SourceVolume: m.SourceVolume, SourceSnapshot: m.SourceSnapshot, SourceVolumeID: m.SourceVolumeID,
		CreatedAt: m.CreatedAt, UpdatedAt: m.UpdatedAt, LastAttachAt: m.LastAttachAt,
	}
}

// AsSnapshot returns the snapshot that the metadata describes.
func (m Metadata) AsSnapshot() Snapshot {
	return Snapshot{
		Name: m.Name, UUID: m.UUID, Volume: m.Volume, VolumeID: m.VolumeID, Properties: m.properties(), Labels: m.Labels, Nested: m.Nested,
		CreatedAt: m.CreatedAt, UpdatedAt: m.UpdatedAt,
	}
}

// writeMetadata replaces the metadata in a directory that has its final name. It keeps fields of
// the present file that this agent does not know. It does not replace a file that it cannot read:
// the file may be that of a newer agent, or of another volume.
func (d *Disk) writeMetadata(dir *os.File, m Metadata) error {
	content, err := m.encode()
	if err != nil {
		return err
	}
	present, err := presentMetadata(dir, m.Name)
	if err != nil {
		return err
	}
	if content, err = keepUnknown[Metadata](content, present); err != nil {
		return err
	}
	return d.writeFile(dir, MetadataFile, content)
}

// presentMetadata returns the content of metadata.json, or nil if the file is missing.
func presentMetadata(dir *os.File, name string) ([]byte, error) {
	content, err := openat2.ReadFile(dir, MetadataFile)
	if err != nil {
		return nil, openat2.IgnoreNotExist(err)
	}
	m, err := decodeMetadata(content)
	if err == nil {
		err = m.IsOf(name)
	}
	return content, err
}

// createMetadata writes metadata into a directory that still has a temporary name.
func (d *Disk) createMetadata(dir *os.File, m Metadata) error {
	content, err := m.encode()
	if err != nil {
		return err
	}
	return d.createFile(dir, MetadataFile, content)
}

// mark sets the mark of a running operation on the metadata file. It is durable after the next
// commit. It works on a full filesystem.
func (d *Disk) mark(dir *os.File, mark Mark) error {
	if err := d.Step("mark", MetadataFile); err != nil {
		return err
	}
	content, err := openat2.ReadFile(dir, MetadataFile)
	if err != nil {
		return err
	}
	return setModified(dir, mark.Time(content))
}

// clearMark removes the mark.
func (d *Disk) clearMark(dir *os.File) error {
	if err := d.Step("clear mark", MetadataFile); err != nil {
		return err
	}
	return setModified(dir, time.Now())
}

func setModified(dir *os.File, modified time.Time) error {
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: modified.Unix(), Nsec: int64(modified.Nanosecond())}}
	err := unix.UtimesNanoAt(int(dir.Fd()), MetadataFile, times, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return &fs.PathError{Op: "utimensat", Path: MetadataFile, Err: err}
	}
	return nil
}

func (m Metadata) encode() ([]byte, error) {
	m.Version = m.version()
	return encodeFile(m)
}

// encodeFile encodes a file of the agent in a form that administrators can read.
func encodeFile(file any) ([]byte, error) {
	content, err := json.MarshalIndent(file, "", "  ")
	return append(content, '\n'), err
}

// ReadMetadata reads and checks metadata.json and its mark. The error of a missing file is
// fs.ErrNotExist.
func ReadMetadata(dir *os.File) (Metadata, Mark, error) {
	f, err := openat2.OpenFile(dir, MetadataFile)
	if err != nil {
		return Metadata{}, NoMark, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Metadata{}, NoMark, err
	}
	content, err := openat2.ReadAll(f)
	if err != nil {
		return Metadata{}, NoMark, err
	}
	m, err := decodeMetadata(content)
	return m, markOf(content, info.ModTime()), err
}

// IsOf verifies that the metadata belongs to the volume or snapshot of its directory.
func (m Metadata) IsOf(name string) error {
	if m.Name != name {
		return fmt.Errorf("%s %w %q", MetadataFile, errOtherName, m.Name)
	}
	return nil
}

// errOtherName means that metadata belongs to another directory.
var errOtherName = errors.New("is that of")

// namesOther reports whether the metadata names a subvolume other than data.
func (m Metadata) namesOther(data uuid.UUID) bool { return m.UUID != uuid.Nil && m.UUID != data }

func decodeMetadata(content []byte) (Metadata, error) {
	if len(bytes.TrimSpace(content)) == 0 {
		return Metadata{}, fmt.Errorf("%s is empty", MetadataFile)
	}
	var m Metadata
	if err := json.Unmarshal(content, &m); err != nil {
		return Metadata{}, fmt.Errorf("%s cannot be read: %w", MetadataFile, err)
	}
	return m, m.validate()
}

func (m Metadata) validate() error {
	switch {
	case m.Version > metadataVersion:
		return fmt.Errorf("%s has version %d, written by a newer agent; this one reads up to %d", MetadataFile, m.Version, metadataVersion)
	case m.Version < 1:
		return fmt.Errorf("%s has no version of this agent's", MetadataFile)
	case m.SizeBytes < 0 || m.QuotaBytes < 0:
		return fmt.Errorf("sizes in %s must not be negative", MetadataFile)
	}
	if err := id.ValidateName(m.Name); err != nil {
		return fmt.Errorf("name in %s %w", MetadataFile, err)
	}
	if mode, err := strconv.ParseUint(m.Mode, 8, 32); err != nil || mode > 0o7777 {
		return fmt.Errorf("mode %q is not octal text from 0 to 7777", m.Mode)
	}
	return nil
}
