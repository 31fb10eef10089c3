package crash

import (
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/crash/logwrites"
)

// Half of the points are exact, and no two are the same. Before the first line of the journal, the
// disk is not a pool yet. A disk that a recording began with is a pool.
func TestPointsOfARecording(t *testing.T) {
	log := &logwrites.Log{Entries: []logwrites.Entry{
		{Sectors: 1}, {Flags: logwrites.Flush}, {Flags: logwrites.Mark, Text: "1"}, {Flags: logwrites.FUA, Sectors: 1},
		{Sectors: 1}, {Flags: logwrites.Mark, Text: "2"}, {Flags: logwrites.Flush},
	}}
	for name, test := range map[string]struct {
		lines, points, all, exact, torn int
	}{
		"fewer than there are":   {0, 3, 4, 2, 1},
		"more than there are":    {0, 20, 4, 4, 16},
		"of a recovery":          {7, 20, 5, 5, 15},
		"one":                    {0, 1, 4, 1, 0},
		"none, as of a rare one": {0, 0, 4, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			chosen, all := Config{Replay: &Replay{Lines: test.lines, Points: test.points}}.points(log)
			assert.Equal(t, all, test.all)
			seen, exact, last := map[point]bool{}, 0, 0
			for _, p := range chosen {
				assert.Assert(t, !seen[p] && p.entries >= last)
				seen[p], last = true, p.entries
				if p.torn == 0 {
					exact++
				}
			}
			assert.Equal(t, exact, test.exact)
			assert.Equal(t, len(chosen)-exact, test.torn)
		})
	}
}

func TestLinesBeforeAPoint(t *testing.T) {
	log := &logwrites.Log{Entries: []logwrites.Entry{{Flags: logwrites.Flush}, {Flags: logwrites.Mark, Text: "9"}}}
	c := Config{Replay: &Replay{Lines: 8}}
	assert.Equal(t, c.lines(log, 1), 8)
	assert.Equal(t, c.lines(log, 2), 9)
}

// On a disk that has lost writes, no later answer is valid.
func TestSurvived(t *testing.T) {
	v := Volume("w-1")
	create, remove := asked(1, Request{Verb: Create, Key: v, Size: 10}), asked(2, Request{Verb: Delete, Key: v})
	thing := &Thing{Size: 10}
	journal := func(fault string) []Entry {
		return []Entry{create, answered(1, "", thing), {Fault: fault}, remove, answered(2, "", nil)}
	}
	for fault, possible := range map[string]int{LostWrites: 2, WriteErrors: 1} {
		of := NewWorld(survived(journal(fault))).Of(v)
		assert.Equal(t, len(of), possible, fault)
		assert.Assert(t, of[0] == nil || fault == LostWrites)
	}
}
