package inspect

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

// each calls do with every combination of findings.
func each(do func(Directory)) {
	for place := Named; place <= Unnamed; place++ {
		for mark := NoMark; mark <= Deleting; mark++ {
			for metadata := NoMetadata; metadata <= GoodMetadata; metadata++ {
				for data := NoData; data <= OwnData; data++ {
					for references := NoReferences; references <= BadReferences; references++ {
						for _, others := range []string{"", "letter"} {
							do(Directory{place, mark, metadata, data, references, others, "something is wrong"})
						}
					}
				}
			}
		}
	}
}

// row is the condition of a state. The first row that fits decides.
type row struct {
	state State
	fits  func(Directory) bool
}

// rows are the rules of docs/architecture.md, "Recovery", one by one. They do not follow the order
// of Classify, so that the test shows a combination with the wrong state.
var rows = []row{
	{NotOurs, func(d Directory) bool { return temporary(d) && (d.Data == BadData || d.Data == ReplacedData) }},
	{NotOurs, func(d Directory) bool { return temporary(d) && d.Mark == Creating && d.Data == OwnData }},
	{NotOurs, func(d Directory) bool { return temporary(d) && nothing(d) && d.Others != "" }},
	{InterruptedDeletion, func(d Directory) bool { return d.Place == Trash }},
	{InterruptedCreation, func(d Directory) bool {
		return d.Place == Staging && d.References == NoReferences && d.Others == ""
	}},
	{NotOurs, func(d Directory) bool { return d.Place == Staging }},
	{NotOurs, func(d Directory) bool { return d.Place == Unnamed && nothing(d) }},
	{Quarantined, func(d Directory) bool { return d.Place == Unnamed }},
	{NotOurs, func(d Directory) bool { return nothing(d) && d.Data == NoData }},
	{Quarantined, func(d Directory) bool {
		return d.Metadata != GoodMetadata || d.Data == BadData || d.References == BadReferences
	}},
	{Whole, func(d Directory) bool { return d.Data >= ReplacedData && d.Mark != Deleting }},
	{InterruptedDeletion, func(d Directory) bool {
		return d.Mark == Deleting && d.References == NoReferences && (d.Data == OwnData || d.Data == NoData && d.Others == "")
	}},
	{InterruptedCreation, func(d Directory) bool {
		return d.Mark == Creating && d.References == NoReferences && d.Data == NoData && d.Others == ""
	}},
	{Quarantined, func(Directory) bool { return true }},
}

func temporary(d Directory) bool { return d.Place == Staging || d.Place == Trash }

func nothing(d Directory) bool {
	return d.Metadata == NoMetadata && d.Data != OwnData && d.Data != ReplacedData && d.References == NoReferences
}

func TestEveryCombination(t *testing.T) {
	seen := map[State]int{}
	each(func(d Directory) {
		state, reason := Classify(d)
		seen[state]++
		for _, row := range rows {
			if row.fits(d) {
				assert.Check(t, state == row.state, "%+v is %d, want %d", d, state, row.state)
				break
			}
		}
		assert.Check(t, (reason != "") == (state == Quarantined), "%+v: %d %q", d, state, reason)
	})
	assert.Equal(t, len(seen), 5)
}

// Possible data is removed only with the mark of the agent on it, and never if clients have
// references to it.
func TestNothingIsRemovedWithoutAMark(t *testing.T) {
	each(func(d Directory) {
		state, _ := Classify(d)
		assert.Check(t, state == Quarantined || state == Whole || state == NotOurs || d.Mark != Creating || d.Data == NoData, "%+v", d)
		if state != InterruptedCreation && state != InterruptedDeletion {
			return
		}
		assert.Check(t, d.Place == Staging || d.Place == Trash || d.Place == Named && d.Mark != NoMark, "%+v", d)
		assert.Check(t, d.Data != ReplacedData && d.Data != BadData, "%+v", d)
		if d.Place == Named {
			assert.Check(t, d.References == NoReferences && d.Metadata == GoodMetadata, "%+v", d)
			assert.Check(t, d.Data == NoData || d.Mark == Deleting, "%+v", d)
		}
	})
}

func TestPlaces(t *testing.T) {
	valid := func(name string) error {
		if strings.HasPrefix(name, ".") || name == "Bad" {
			return errors.New("no volume's name")
		}
		return nil
	}
	for name, want := range map[string]Place{
		"pvc-1":                     Named,
		"new-0123456789abcdef":      Named,
		"Bad":                       Unnamed,
		".hidden":                   Unnamed,
		".new-0123456789abcdef":     Staging,
		".trash-0123456789abcdef":   Trash,
		".new-work":                 Unnamed,
		".new-0123456789abcdef0":    Unnamed,
		".new-0123456789abcde":      Unnamed,
		".trash-":                   Unnamed,
		".trash-0123456789abcdefxx": Unnamed,
	} {
		assert.Equal(t, PlaceOf(name, valid), want, "%s", name)
	}
}

func TestMarks(t *testing.T) {
	content := []byte(`{"name": "v"}`)
	for _, mark := range []Mark{Creating, Deleting} {
		assert.Equal(t, MarkOf(content, mark.Time(content)), mark)
		assert.Equal(t, MarkOf([]byte(`{"name": "w"}`), mark.Time(content)), NoMark, "a mark is of one content")
	}
	for i := range 1000 {
		now := time.Now()
		assert.Equal(t, MarkOf(fmt.Appendf(nil, "%d", i), now), NoMark)
		assert.Equal(t, MarkOf(fmt.Appendf(nil, "%d", i), now.Truncate(time.Second)), NoMark)
	}
}
