package crash

import (
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

func asked(n int, r Request) Entry { return Entry{Number: n, Request: &r} }

func answered(n int, code agentapi.Code, t *Thing) Entry {
	return Entry{Number: n, Answer: &Answer{Code: code, Thing: t}}
}

// The checks after a crash must distinguish correct and wrong states.
func TestWorld(t *testing.T) {
	v := Volume("w-1")
	small := &Thing{Size: 10, Quota: 10, Mode: "0700", Created: "then"}
	large := &Thing{Size: 20, Quota: 20, Mode: "0750", UID: 7, Created: "then"}
	half := &Thing{Size: 20, Quota: 20, Mode: "0700", Created: "then"}
	create := asked(1, Request{Verb: Create, Key: v, Size: 10, Mode: "0700"})
	grow := asked(2, Request{Verb: Update, Key: v, Size: 20, Mode: "0750", UID: 7})
	remove := asked(3, Request{Verb: Delete, Key: v})
	in := func(client string) Entry {
		return asked(4, Request{Verb: Export, Key: v, Client: client, Labels: map[string]string{"a": "b"}})
	}
	out := asked(5, Request{Verb: Unexport, Key: v, Client: "c"})
	letIn := &Thing{Size: 10, Quota: 10, Mode: "0700", Created: "then", Refs: map[string]bool{"c a=b": false}}

	for name, test := range map[string]struct {
		journal     []Entry
		good, wrong []*Thing
	}{
		"acknowledged":               {[]Entry{create, answered(1, "", small)}, []*Thing{small}, []*Thing{nil, large}},
		"not answered":               {[]Entry{create}, []*Thing{nil, small}, []*Thing{large}},
		"refused":                    {[]Entry{create, answered(1, agentapi.Invalid, nil)}, []*Thing{nil}, []*Thing{small}},
		"unreachable":                {[]Entry{create, answered(1, agentapi.Unavailable, nil)}, []*Thing{nil, small}, nil},
		"update not answered":        {[]Entry{create, answered(1, "", small), grow}, []*Thing{small, large}, []*Thing{nil, half}},
		"update acknowledged":        {[]Entry{create, answered(1, "", small), grow, answered(2, "", large)}, []*Thing{large}, []*Thing{nil, small, half}},
		"deletion acknowledged":      {[]Entry{create, answered(1, "", small), remove, answered(3, "", nil)}, []*Thing{nil}, []*Thing{small}},
		"deletion not answered":      {[]Entry{create, answered(1, "", small), remove}, []*Thing{nil, small}, []*Thing{large}},
		"export acknowledged":        {[]Entry{create, answered(1, "", small), in("c"), answered(4, "", nil)}, []*Thing{letIn}, []*Thing{small, nil}},
		"export not answered":        {[]Entry{create, answered(1, "", small), in("c")}, []*Thing{letIn, small}, []*Thing{nil}},
		"unexport of nobody":         {[]Entry{create, answered(1, "", small), out}, []*Thing{small}, []*Thing{letIn}},
		"unexport acknowledged":      {[]Entry{create, answered(1, "", small), in("c"), answered(4, "", nil), out, answered(5, "", nil)}, []*Thing{small}, []*Thing{letIn}},
		"unexport of a longer name":  {[]Entry{create, answered(1, "", small), in("c2"), answered(4, "", nil), out, answered(5, "", nil)}, nil, []*Thing{small, letIn}},
		"verified after a crash":     {[]Entry{create, {State: map[Key]*Thing{v: large}}}, []*Thing{large}, []*Thing{nil, small}},
		"verified not to have been":  {[]Entry{create, {State: map[Key]*Thing{}}}, []*Thing{nil}, []*Thing{small}},
		"deleted and the export not": {[]Entry{create, answered(1, "", small), in("c"), answered(4, "", nil), remove}, []*Thing{letIn}, []*Thing{nil, small}},
	} {
		t.Run(name, func(t *testing.T) {
			w := NewWorld(test.journal)
			assert.Equal(t, len(w.Problems), 0, "%v", w.Problems)
			for _, have := range test.good {
				_, problem := settle(w.Of(v), have.clone())
				assert.Equal(t, problem, "")
			}
			for _, have := range test.wrong {
				_, problem := settle(w.Of(v), have.clone())
				assert.Assert(t, problem != "", "%s passes", describe(have))
			}
		})
	}
}

func TestWrongAnswersAreProblems(t *testing.T) {
	for _, code := range []agentapi.Code{agentapi.InternalError, agentapi.MetadataError} {
		w := NewWorld([]Entry{asked(1, Request{Verb: Create, Key: Volume("w-1")}), answered(1, code, nil)})
		assert.Equal(t, len(w.Problems), 1)
	}
}

// A snapshot contains the data that was fsynced in its volume before the request. It may contain
// later data.
func TestSnapshotsHoldWhatWasSynced(t *testing.T) {
	v, s := Volume("d-1"), Snap("d-1")
	file := func(name string) Entry { return Entry{Synced: &File{Key: v, Name: name, Sum: "x"}} }
	w := NewWorld([]Entry{
		asked(1, Request{Verb: Create, Key: v, Size: 10}), answered(1, "", &Thing{Size: 10}), file("early"),
		asked(2, Request{Verb: Snapshot, Key: s, Source: v}), file("late"), answered(2, "", &Thing{Size: 10, Volume: "d-1"}),
	})
	assert.DeepEqual(t, w.Certain(s).Files, map[string]string{"early": "x"})
	assert.DeepEqual(t, w.Certain(v).Files, map[string]string{"early": "x", "late": "x"})
}

// A client's change may be in each of the states that were recorded last, also after a change of
// the volume. A state that was found after a crash stays.
func TestStatesOfClients(t *testing.T) {
	v := Volume("c-1")
	made := &Thing{Size: 10, Quota: 10}
	changed := func(states ...string) Entry {
		return Entry{Change: &Change{Key: v, Name: "tree", States: states}}
	}
	w := NewWorld([]Entry{
		asked(1, Request{Verb: Create, Key: v, Size: 10}), answered(1, "", made), changed(absent, "[]"), changed(absent, "[]", "[a:]"),
		asked(2, Request{Verb: Update, Key: v, Size: 20}), answered(2, "", &Thing{Size: 20, Quota: 20}),
	})
	found, problem := settle(w.Of(v), &Thing{Size: 20, Quota: 20})
	assert.Equal(t, problem, "")
	assert.DeepEqual(t, found.States, map[string][]string{"tree": {absent, "[]", "[a:]"}})
	w = NewWorld([]Entry{{State: map[Key]*Thing{v: {Size: 20, States: map[string][]string{"tree": {"[]"}}}}}, changed("[]", "[b:]")})
	assert.DeepEqual(t, w.Certain(v).States, map[string][]string{"tree": {"[]", "[b:]"}})
}

// The state of a directory depends on names and contents.
func TestTree(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dir")
	seen := map[string]string{}
	look := func(what string) tree {
		found, err := readTree(dir)
		assert.NilError(t, err)
		assert.Assert(t, seen[found.String()] == "", "%s looks like %s", what, seen[found.String()])
		seen[found.String()] = what
		return found
	}
	assert.Assert(t, look("nothing") == nil)
	assert.NilError(t, os.Mkdir(dir, 0o700))
	empty := look("an empty directory")
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "a"), []byte("content"), 0o600))
	assert.DeepEqual(t, look("a file"), empty.with("a", "content"))
	assert.NilError(t, os.Truncate(filepath.Join(dir, "a"), 3))
	assert.DeepEqual(t, look("a truncated file"), empty.with("a", "con"))
	assert.NilError(t, os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "b")))
	assert.DeepEqual(t, look("a renamed file"), empty.with("b", "con"))
	assert.NilError(t, os.Symlink("b", filepath.Join(dir, "c")))
	assert.DeepEqual(t, look("a symbolic link").without("c"), empty.with("b", "con"))
}

// An attachment lasts until an unexport of it is acknowledged, and its ID is never used again.
func TestAttachments(t *testing.T) {
	v := Volume("w-1")
	verified := Entry{State: map[Key]*Thing{v: {Size: 10, Refs: map[string]bool{"c": false}, Attachments: map[string]string{"c": "first"}}}}
	out := asked(2, Request{Verb: Unexport, Key: v, Client: "c"})
	in := asked(3, Request{Verb: Export, Key: v, Client: "c"})
	for name, test := range map[string]struct {
		journal     []Entry
		good, wrong string
	}{
		"nothing asked":                   {[]Entry{verified}, "first", "second"},
		"exported again":                  {[]Entry{verified, in, answered(3, "", nil)}, "first", "second"},
		"unexport not answered":           {[]Entry{verified, out}, "first", ""},
		"unexport cut off, then exported": {[]Entry{verified, out, in, answered(3, "", nil)}, "second", ""},
		"unexport acknowledged":           {[]Entry{verified, out, answered(2, "", nil), in, answered(3, "", nil)}, "second", "first"},
		"fenced before it was verified":   {[]Entry{verified, out, answered(2, "", nil), {State: map[Key]*Thing{v: {Ended: []string{"first"}}}}}, "second", "first"},
		"volume changed after it was fenced": {[]Entry{verified, out, answered(2, "", nil),
			asked(4, Request{Verb: Update, Key: v, Size: 20}), answered(4, "", &Thing{Size: 20})}, "second", "first"},
	} {
		t.Run(name, func(t *testing.T) {
			w := NewWorld(test.journal)
			problems := func(fsid string) []string {
				judge := &verifier{world: w}
				for _, thing := range w.Of(v) {
					judge.attachment(v, thing.clone(), "c", fsid)
				}
				return judge.problems
			}
			assert.Equal(t, len(problems(test.good)), 0, "%v", problems(test.good))
			assert.Assert(t, len(problems(test.wrong)) > 0)
		})
	}
}
