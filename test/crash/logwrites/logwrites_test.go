package logwrites_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/crash/logwrites"
)

const sectorSize, diskBytes = 512, 8 * 512

// logFile writes the format of drivers/md/dm-log-writes.c.
type logFile struct {
	entries uint64
	body    bytes.Buffer
}

func (l *logFile) add(flags, sector, sectors uint64, data []byte) *logFile {
	header := make([]byte, sectorSize)
	for i, number := range []uint64{sector, sectors, flags, 0} {
		binary.LittleEndian.PutUint64(header[8*i:], number)
	}
	if flags&logwrites.Mark != 0 {
		binary.LittleEndian.PutUint64(header[24:], uint64(len(data)))
		copy(header[32:], data)
		data = nil
	}
	l.body.Write(header)
	l.body.Write(data)
	l.entries++
	return l
}

func (l *logFile) mark(text string) *logFile {
	return l.add(logwrites.Mark, 0, 0, []byte(text+"\x00"))
}

func (l *logFile) write(flags, sector uint64, letters string) *logFile {
	var data []byte
	for _, letter := range []byte(letters) {
		data = append(data, sectorOf(letter)...)
	}
	return l.add(flags, sector, uint64(len(letters)), data)
}

func sectorOf(letter byte) []byte { return bytes.Repeat([]byte{letter}, sectorSize) }

func (l *logFile) open(t *testing.T) *logwrites.Log {
	t.Helper()
	super := make([]byte, sectorSize)
	for i, number := range []uint64{0x6a736677736872, 1, l.entries, sectorSize} {
		binary.LittleEndian.PutUint64(super[8*i:], number)
	}
	path := filepath.Join(t.TempDir(), "log")
	assert.NilError(t, os.WriteFile(path, slices.Concat(super, l.body.Bytes()), 0o600))
	log, err := logwrites.Open(path)
	assert.NilError(t, err)
	t.Cleanup(func() { assert.Check(t, log.Close()) })
	return log
}

// disk is a file whose sectors each hold one letter, or zeros, which String shows as a dot.
type disk struct {
	t    *testing.T
	file *os.File
}

func newDisk(t *testing.T) disk {
	t.Helper()
	memory, err := unix.MemfdCreate("disk", unix.MFD_CLOEXEC)
	assert.NilError(t, err)
	file := os.NewFile(uintptr(memory), "disk")
	assert.NilError(t, file.Truncate(diskBytes))
	t.Cleanup(func() { assert.Check(t, file.Close()) })
	return disk{t, file}
}

func (d disk) String() string {
	d.t.Helper()
	content := make([]byte, diskBytes)
	_, err := d.file.ReadAt(content, 0)
	assert.NilError(d.t, err)
	letters := ""
	for sector := range len(content) / sectorSize {
		letter := content[sector*sectorSize]
		assert.DeepEqual(d.t, content[sector*sectorSize:(sector+1)*sectorSize], sectorOf(letter))
		if letter == 0 {
			letter = '.'
		}
		letters += string(letter)
	}
	return letters
}

// example: 0 write, 1 flush, 2 mark, 3 write, 4 FUA write, 5 mark, 6 write, 7 flush with data, 8
// discard, 9 flush.
func example(t *testing.T) *logwrites.Log {
	t.Helper()
	return new(logFile).write(0, 0, "ab").add(logwrites.Flush, 0, 0, nil).mark("1").
		write(logwrites.Metadata, 2, "cdef").write(logwrites.FUA, 0, "A").mark("2").write(0, 6, "g").
		write(logwrites.Flush, 7, "h").add(logwrites.Discard, 1, 2, nil).add(logwrites.Flush, 0, 0, nil).open(t)
}

func TestEntriesAreReadAndApplied(t *testing.T) {
	log := example(t)
	assert.Equal(t, log.SectorSize, int64(sectorSize))
	assert.DeepEqual(t, log.Points(), []int{2, 3, 5, 6, 8, 10})
	for n, want := range map[int]string{0: "", 2: "", 3: "1", 5: "1", 6: "2", 10: "2"} {
		assert.Equal(t, log.LastMark(n), want, "after %d entries", n)
	}

	d := newDisk(t)
	done := 0
	for _, step := range []struct {
		to   int
		want string
	}{{0, "........"}, {3, "ab......"}, {6, "Abcdef.."}, {8, "Abcdefgh"}, {10, "A..defgh"}} {
		assert.NilError(t, log.Apply(d.file, done, step.to))
		done = step.to
		assert.Equal(t, d.String(), step.want)
	}
}

// A power cut tears only writes that are not flushed: 3 and 6. The FUA write 4 is complete or
// missing. Each combination occurs.
func TestTearing(t *testing.T) {
	log := example(t)
	seen := map[string]bool{}
	d := newDisk(t)
	for seed := range uint64(400) {
		assert.NilError(t, d.file.Truncate(0))
		assert.NilError(t, d.file.Truncate(diskBytes))
		assert.NilError(t, log.Apply(d.file, 0, 3))
		moment, err := log.Tear(d.file, 3, rand.New(rand.NewPCG(seed, 0)))
		assert.NilError(t, err)
		assert.Assert(t, moment >= 3 && moment <= 7)
		have := d.String()
		assert.Equal(t, have[0] == 'A', moment > 4)
		assert.Assert(t, cmp.Regexp("^[aA]b[.c][.d][.e][.f][.g][.]$", have))
		seen[have[2:6]] = true
	}
	assert.Equal(t, len(seen), 16, "%v", seen)
}

func TestSameSeedTearsTheSame(t *testing.T) {
	log := example(t)
	tear := func() (string, int) {
		d := newDisk(t)
		moment, err := log.Tear(d.file, 2, rand.New(rand.NewPCG(7, 2)))
		assert.NilError(t, err)
		return d.String(), moment
	}
	disk1, moment1 := tear()
	disk2, moment2 := tear()
	assert.Equal(t, disk1, disk2)
	assert.Equal(t, moment1, moment2)
}

func TestBadLogsAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for name, content := range map[string][]byte{"empty": nil, "another file": make([]byte, 4096)} {
		assert.NilError(t, os.WriteFile(path, content, 0o600))
		_, err := logwrites.Open(path)
		assert.Assert(t, err != nil, name)
	}
}
