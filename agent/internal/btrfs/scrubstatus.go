package btrfs

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// ScrubStatusDir is where btrfs-scrub(8) writes the results of scrubs. The kernel keeps results
// only while it scrubs.
const ScrubStatusDir = "/var/lib/btrfs"

// ScrubRun is the last scrub of one device.
type ScrubRun struct {
	Scrub

	Device    uint64
	Started   time.Time // to the second; for a resumed scrub, the start of its first part
	Cancelled bool      // or failed
	Finished  bool      // or cancelled; false while it runs, and after its process was killed
}

// Complete reports whether the scrub has read all of the device.
func (r ScrubRun) Complete() bool { return r.Finished && !r.Cancelled }

func scrubStatusFile(dir string, fsid uuid.UUID) string {
	return filepath.Join(dir, "scrub.status."+fsid.String())
}

// ReadScrubStatus reads the status file of btrfs-progs (cmds/scrub.c). The file has a line for each
// device, "filesystem:device|counter:value|...". btrfs-progs writes it every five seconds, and at
// the end. A resumed scrub adds to the counters of its first part. ReadScrubStatus ignores unknown
// fields. If no scrub was recorded, the error is os.ErrNotExist.
func ReadScrubStatus(dir string, fsid uuid.UUID) ([]ScrubRun, error) {
	text, err := os.ReadFile(scrubStatusFile(dir, fsid))
	if err != nil {
		return nil, err
	}
	var runs []ScrubRun
	for line := range strings.Lines(string(text)) {
		fields := strings.Split(strings.TrimSpace(line), "|")
		_, device, _ := strings.Cut(fields[0], ":")
		id, err := strconv.ParseUint(device, 10, 64)
		if err != nil || len(fields) == 1 {
			continue
		}
		run := ScrubRun{Device: id}
		for _, field := range fields[1:] {
			name, text, _ := strings.Cut(field, ":")
			if value, err := strconv.ParseUint(text, 10, 63); err == nil {
				run.take(name, value)
			}
		}
		runs = append(runs, run)
	}
	return runs, nil
}

func (r *ScrubRun) take(name string, value uint64) {
	switch name {
	case "t_start":
		r.Started = time.Unix(int64(value), 0)
	case "canceled":
		r.Cancelled = value != 0
	case "finished":
		r.Finished = value != 0
	}
	for _, counter := range r.Counters() {
		if counter.Name == name {
			*counter.Value = value
		}
	}
}

// Counter is one count of a scrub, with its name in btrfs-progs.
type Counter struct {
	Name  string
	Value *uint64
}

// Counters returns all counts except UnverifiedErrors, in the order of the kernel's struct.
func (s *Scrub) Counters() []Counter {
	return []Counter{
		{"data_extents_scrubbed", &s.DataExtents}, {"tree_extents_scrubbed", &s.TreeExtents},
		{"data_bytes_scrubbed", &s.DataBytes}, {"tree_bytes_scrubbed", &s.TreeBytes},
		{"read_errors", &s.ReadErrors}, {"csum_errors", &s.CsumErrors}, {"verify_errors", &s.VerifyErrors},
		{"no_csum", &s.NoCsum}, {"csum_discards", &s.CsumDiscards}, {"super_errors", &s.SuperErrors}, {"malloc_errors", &s.MallocErrors},
		{"uncorrectable_errors", &s.UncorrectableErrors}, {"corrected_errors", &s.CorrectedErrors}, {"last_physical", &s.LastPhysical},
	}
}
