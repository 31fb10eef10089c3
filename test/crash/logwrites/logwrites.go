// Package logwrites reads the log of the device-mapper target log-writes, and computes possible
// states of the disk after a power cut. The format is that of struct log_write_super and struct
// log_write_entry in the kernel's drivers/md/dm-log-writes.c. Its meaning is described in
// Documentation/admin-guide/device-mapper/log-writes.rst.
//
// The target logs an ordinary write when the next flush arrives, before that flush: until then the
// disk may lose the write. It logs a flush, a write with FUA and a mark in the order in which they
// complete. So a power cut after any of these leaves all entries up to it, and any part of the
// ordinary writes up to the next flush.
package logwrites

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"

	"golang.org/x/sys/unix"
)

// Flags of an entry.
const (
	Flush    = 1 << iota // all entries before it are on the disk
	FUA                  // the entry itself is on the disk
	Discard              // has no data, and reads as zeros afterwards
	Mark                 // has a text instead of data
	Metadata             // marked by the filesystem
)

const (
	magic   = 0x6a736677736872
	version = 1

	superBytes = 8 + 8 + 8 + 4 // magic, version, number of entries, sector size
	entryBytes = 4 * 8         // sector, sectors, flags, bytes of text
)

// Entry is one write, discard, flush or mark. A flush may also have data.
type Entry struct {
	Sector, Sectors uint64 // of Log.SectorSize
	Flags           uint64
	Text            string // of a mark

	data int64 // offset in the log
}

// Durable reports whether a power cut after the entry keeps it without a later flush.
func (e Entry) Durable() bool { return e.Flags&(Flush|FUA|Mark) != 0 }

// Log has the entries in memory, and their data in the file.
type Log struct {
	SectorSize int64 // bytes
	Entries    []Entry

	file *os.File
}

// Open reads the entries of a log: a block device, or a copy of one. The target must have been
// removed, or must have received a mark since: only then the log has the number of entries.
func Open(path string) (*Log, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	l := &Log{file: file}
	if err := l.read(); err != nil {
		return nil, errors.Join(fmt.Errorf("log of writes %s: %w", path, err), file.Close())
	}
	return l, nil
}

// Close closes the file.
func (l *Log) Close() error { return l.file.Close() }

func (l *Log) read() error {
	super := make([]byte, superBytes)
	if _, err := l.file.ReadAt(super, 0); err != nil {
		return err
	}
	number := binary.LittleEndian.Uint64
	if number(super) != magic || number(super[8:]) != version {
		return fmt.Errorf("it has magic number %#x and version %d, want %#x and %d", number(super), number(super[8:]), magic, version)
	}
	l.SectorSize = int64(binary.LittleEndian.Uint32(super[24:]))
	if l.SectorSize < 512 {
		return fmt.Errorf("its sectors have %d bytes", l.SectorSize)
	}

	at := l.SectorSize
	for range number(super[16:]) {
		e, err := l.readEntry(at)
		if err != nil {
			return fmt.Errorf("entry %d: %w", len(l.Entries), err)
		}
		l.Entries = append(l.Entries, e)
		at = e.data
		if e.Flags&Discard == 0 {
			at += int64(e.Sectors) * l.SectorSize
		}
	}
	return nil
}

// readEntry reads the sector before the data. It contains the text of a mark.
func (l *Log) readEntry(at int64) (Entry, error) {
	sector := make([]byte, l.SectorSize)
	if _, err := l.file.ReadAt(sector, at); err != nil {
		return Entry{}, err
	}
	number := binary.LittleEndian.Uint64
	e := Entry{Sector: number(sector), Sectors: number(sector[8:]), Flags: number(sector[16:]), data: at + l.SectorSize}
	if e.Flags&Mark == 0 {
		return e, nil
	}
	text := sector[entryBytes:]
	length := number(sector[24:])
	if length > uint64(len(text)) {
		return Entry{}, fmt.Errorf("a mark of %d bytes does not fit into a sector", length)
	}
	e.Text = string(bytes.TrimRight(text[:length], "\x00"))
	return e, nil
}

// Points returns the numbers of entries after which a power cut leaves exactly these: n means the
// first n.
func (l *Log) Points() []int {
	var points []int
	for i, e := range l.Entries {
		if e.Durable() {
			points = append(points, i+1)
		}
	}
	return points
}

// LastMark returns the text of the last mark among the first n entries, "" if there is none.
func (l *Log) LastMark(n int) string {
	for i := n - 1; i >= 0; i-- {
		if l.Entries[i].Flags&Mark != 0 {
			return l.Entries[i].Text
		}
	}
	return ""
}

// Apply applies the entries from..to to target, which has the size of the logged device.
func (l *Log) Apply(target *os.File, from, to int) error {
	for _, e := range l.Entries[from:to] {
		if err := l.apply(target, e); err != nil {
			return err
		}
	}
	return nil
}

func (l *Log) apply(target *os.File, e Entry) error {
	if e.Sectors == 0 || e.Flags&Mark != 0 {
		return nil
	}
	at, size := int64(e.Sector)*l.SectorSize, int64(e.Sectors)*l.SectorSize
	if e.Flags&Discard != 0 {
		return unix.Fallocate(int(target.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, size)
	}
	_, err := io.Copy(io.NewOffsetWriter(target, at), io.NewSectionReader(l.file, e.data, size))
	return err
}

// Tear applies to target, which has the first n entries, a possible effect of a power cut before
// the next flush. It applies the FUA writes up to a random moment. Of the ordinary writes it
// applies one third completely, one third in some of their sectors, and one third not at all. It
// returns the moment as a number of entries: the marks among them are complete.
func (l *Log) Tear(target *os.File, n int, random *rand.Rand) (moment int, err error) {
	next := n
	for next < len(l.Entries) && l.Entries[next].Flags&Flush == 0 {
		next++
	}
	moment = n + random.IntN(next-n+1)
	for i, e := range l.Entries[n:next] {
		switch fate := random.IntN(3); {
		case e.Durable():
			if n+i < moment {
				err = l.apply(target, e)
			}
		case fate == 0:
			err = l.apply(target, e)
		case fate == 1:
			err = l.applyPart(target, e, random)
		}
		if err != nil {
			return moment, err
		}
	}
	return moment, nil
}

// applyPart applies the entry to some of its sectors. It applies a discard completely.
func (l *Log) applyPart(target *os.File, e Entry, random *rand.Rand) error {
	if e.Flags&Discard != 0 {
		return l.apply(target, e)
	}
	for i := range e.Sectors {
		if random.IntN(2) == 0 {
			continue
		}
		part := Entry{Sector: e.Sector + i, Sectors: 1, data: e.data + int64(i)*l.SectorSize}
		if err := l.apply(target, part); err != nil {
			return err
		}
	}
	return nil
}
