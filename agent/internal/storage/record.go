package storage

import (
	"encoding/binary"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/labels"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/packed"
)

// record is a volume or snapshot in one piece of memory without pointers. Go looks through all pointers every two minutes, also
// when nothing happens: with ten thousands of volumes as structures with maps and texts of their own that was most of what an
// idle agent did. Texts that are read from a record are parts of it.
//
// The methods read or write, so that each type lists its fields once.
type record struct {
	reading bool
	rest    string // what is still to be read
	written []byte
}

func pack[T any](item *T, fields func(*T, *record)) string {
	r := record{written: make([]byte, 0, 512)}
	fields(item, &r)
	return string(r.written)
}

// unpacker reads records into one item, again and again: walks over thousands make no garbage.
func unpacker[T any](fields func(*T, *record)) func(packed string) *T {
	item, r := new(T), &record{reading: true}
	return func(packed string) *T {
		r.rest = packed
		fields(item, r)
		return item
	}
}

func (r *record) text(s *string) {
	if r.reading {
		*s, r.rest = packed.CutText(r.rest)
		return
	}
	r.written = packed.AppendText(r.written, *s)
}

func number[N ~int | ~int64 | ~uint32 | ~uint64](r *record, n *N) {
	if r.reading {
		var value uint64
		value, r.rest = packed.CutNumber(r.rest)
		*n = N(value)
		return
	}
	r.written = binary.AppendUvarint(r.written, uint64(*n))
}

func (r *record) flag(b *bool) {
	n := 0
	if *b {
		n = 1
	}
	number(r, &n)
	*b = n == 1
}

func (r *record) bytes(b []byte) {
	if r.reading {
		n := copy(b, r.rest)
		r.rest = r.rest[n:]
		return
	}
	r.written = append(r.written, b...)
}

// time keeps no zone: times are in UTC.
func (r *record) time(t *time.Time) {
	seconds, nanoseconds := t.Unix(), t.Nanosecond()
	number(r, &seconds)
	number(r, &nanoseconds)
	*t = time.Unix(seconds, int64(nanoseconds)).UTC()
}

// list is nil where it is empty.
func list[T any](r *record, items *[]T, field func(*record, *T)) {
	n := len(*items)
	number(r, &n)
	switch {
	case r.reading && n > 0:
		*items = make([]T, n)
	case r.reading:
		*items = nil
	}
	for i := range *items {
		field(r, &(*items)[i])
	}
}

func (v *Volume) fields(r *record) {
	r.text(&v.Name) // first: the catalogue is in its order
	r.bytes(v.VolumeID[:])
	r.bytes(v.UUID[:])
	number(r, &v.ID)
	r.text(&v.Path)
	v.Properties.fields(r)
	r.labels(&v.Labels)
	list(r, &v.MountOptions, (*record).text)
	r.text(&v.SourceVolume)
	r.text(&v.SourceSnapshot)
	r.bytes(v.SourceVolumeID[:])
	list(r, &v.Refs, func(r *record, ref *Ref) { ref.fields(r) })
	r.text(&v.Quarantine)
	r.flag(&v.RefsUnknown)
	r.time(&v.CreatedAt)
	r.time(&v.UpdatedAt)
	r.time(&v.LastAttachAt)
	r.text(&v.Pending)
}

func (s *Snapshot) fields(r *record) {
	r.text(&s.Name) // first, as a volume's
	r.bytes(s.UUID[:])
	r.bytes(s.ParentUUID[:])
	number(r, &s.ID)
	r.text(&s.Path)
	r.text(&s.Volume)
	r.bytes(s.VolumeID[:])
	s.Properties.fields(r)
	r.labels(&s.Labels)
	list(r, &s.Nested, (*record).text)
	r.text(&s.Quarantine)
	r.time(&s.CreatedAt)
	r.time(&s.UpdatedAt)
}

func (p *Properties) fields(r *record) {
	number(r, &p.SizeBytes)
	number(r, &p.QuotaBytes)
	r.flag(&p.NoCOW)
	r.text(&p.Compression)
	number(r, &p.UID)
	number(r, &p.GID)
	r.flag(&p.RootSquash)
	number(r, &p.Mode)
}

func (r *Ref) fields(into *record) {
	client, _ := r.Client.MarshalBinary() // never fails
	address := string(client)
	into.text(&address)
	_ = r.Client.UnmarshalBinary([]byte(address)) // what MarshalBinary has made
	into.flag(&r.ReadOnly)
	into.labels(&r.Labels)
	into.bytes(r.FSID[:])
	into.bytes(r.Subvolume[:])
	into.flag(&r.Ended)
	into.time(&r.CreatedAt)
}

func (r *record) labels(set *labels.Set) {
	text := string(*set)
	r.text(&text)
	*set = labels.Set(text)
}
