package ondisk

import (
	"fmt"
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

// each calls do with every combination of findings.
func each(do func(contents)) {
	for place := named; place <= unnamed; place++ {
		for mark := NoMark; mark <= Deleting; mark++ {
			for metadata := noMetadata; metadata <= goodMetadata; metadata++ {
				for data := noData; data <= ownData; data++ {
					for references := noReferences; references <= badReferences; references++ {
						for _, others := range []string{"", "letter"} {
							do(contents{place, mark, metadata, data, references, others, "something is wrong"})
						}
					}
				}
			}
		}
	}
}

// row is the condition of a state. The first row that fits decides.
type row struct {
	state state
	fits  func(contents) bool
}

// rows are the rules of docs/architecture.md, "Recovery", one by one. They do not follow the order
// of classify, so that the test shows a combination with the wrong state.
var rows = []row{
	{notOurs, func(d contents) bool { return temporary(d) && (d.data == badData || d.data == replacedData) }},
	{notOurs, func(d contents) bool { return temporary(d) && d.mark == Creating && d.data == ownData }},
	{notOurs, func(d contents) bool { return temporary(d) && nothing(d) && d.others != "" }},
	{interruptedDeletion, func(d contents) bool { return d.place == trash }},
	{interruptedCreation, func(d contents) bool {
		return d.place == staging && d.references == noReferences && d.others == ""
	}},
	{notOurs, func(d contents) bool { return d.place == staging }},
	{notOurs, func(d contents) bool { return d.place == unnamed && nothing(d) }},
	{quarantined, func(d contents) bool { return d.place == unnamed }},
	{notOurs, func(d contents) bool { return nothing(d) && d.data == noData }},
	{quarantined, func(d contents) bool {
		return d.file != goodMetadata || d.data == badData || d.references == badReferences
	}},
	{whole, func(d contents) bool { return d.data >= replacedData && d.mark != Deleting }},
	{interruptedDeletion, func(d contents) bool {
		return d.mark == Deleting && d.references == noReferences && (d.data == ownData || d.data == noData && d.others == "")
	}},
	{interruptedCreation, func(d contents) bool {
		return d.mark == Creating && d.references == noReferences && d.data == noData && d.others == ""
	}},
	{quarantined, func(contents) bool { return true }},
}

func temporary(d contents) bool { return d.place == staging || d.place == trash }

func nothing(d contents) bool {
	return d.file == noMetadata && d.data != ownData && d.data != replacedData && d.references == noReferences
}

func TestEveryCombination(t *testing.T) {
	seen := map[state]int{}
	each(func(d contents) {
		state, reason := classify(d)
		seen[state]++
		for _, row := range rows {
			if row.fits(d) {
				assert.Check(t, state == row.state, "%+v is %d, want %d", d, state, row.state)
				break
			}
		}
		assert.Check(t, (reason != "") == (state == quarantined), "%+v: %d %q", d, state, reason)
	})
	assert.Equal(t, len(seen), 5)
}

// Possible data is removed only with the mark of the agent on it, and never if clients have
// references to it.
func TestNothingIsRemovedWithoutAMark(t *testing.T) {
	each(func(d contents) {
		state, _ := classify(d)
		assert.Check(t, state == quarantined || state == whole || state == notOurs || d.mark != Creating || d.data == noData, "%+v", d)
		if state != interruptedCreation && state != interruptedDeletion {
			return
		}
		assert.Check(t, d.place == staging || d.place == trash || d.place == named && d.mark != NoMark, "%+v", d)
		assert.Check(t, d.data != replacedData && d.data != badData, "%+v", d)
		if d.place == named {
			assert.Check(t, d.references == noReferences && d.file == goodMetadata, "%+v", d)
			assert.Check(t, d.data == noData || d.mark == Deleting, "%+v", d)
		}
	})
}

func TestPlaces(t *testing.T) {
	for name, want := range map[string]place{
		"pvc-1":                     named,
		"new-0123456789abcdef":      named,
		"bad name":                  unnamed,
		".hidden":                   unnamed,
		".new-0123456789abcdef":     staging,
		".trash-0123456789abcdef":   trash,
		".new-work":                 unnamed,
		".new-0123456789abcdef0":    unnamed,
		".new-0123456789abcde":      unnamed,
		".trash-":                   unnamed,
		".trash-0123456789abcdefxx": unnamed,
	} {
		assert.Equal(t, placeOf(name), want, "%s", name)
	}
}

func TestMarks(t *testing.T) {
	content := []byte(`{"name": "v"}`)
	for _, mark := range []Mark{Creating, Deleting} {
		assert.Equal(t, markOf(content, mark.Time(content)), mark)
		assert.Equal(t, markOf([]byte(`{"name": "w"}`), mark.Time(content)), NoMark, "a mark is of one content")
	}
	for i := range 1000 {
		now := time.Now()
		assert.Equal(t, markOf(fmt.Appendf(nil, "%d", i), now), NoMark)
		assert.Equal(t, markOf(fmt.Appendf(nil, "%d", i), now.Truncate(time.Second)), NoMark)
	}
}
