package crash

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// Thing is the expected state of a volume or snapshot.
type Thing struct {
	Size           int64             `json:"size"`
	Quota          int64             `json:"quota"`
	Compression    string            `json:"compression,omitempty"`
	NoCOW          bool              `json:"nocow,omitempty"`
	UID            int64             `json:"uid"`
	GID            int64             `json:"gid"`
	Mode           string            `json:"mode"`
	Labels         map[string]string `json:"labels,omitempty"`
	Volume         string            `json:"volume,omitempty"` // volume of a snapshot
	SourceVolume   string            `json:"source_volume,omitempty"`
	SourceSnapshot string            `json:"source_snapshot,omitempty"`
	Created        string            `json:"created,omitempty"`  // "" if unknown: the answer was lost
	Inherits       bool              `json:"inherits,omitempty"` // size, quota and properties are those of the source, which are not certain
	Refs           map[string]bool   `json:"refs,omitempty"`     // client and labels -> read-only
	Files          map[string]string `json:"files,omitempty"`    // fsynced files: name -> SHA-256

	// States are the possible states after a power cut of names that clients change: see clientWriter.
	States map[string][]string `json:"states,omitempty"`

	// Attachments are the clients' file system IDs when they were last verified. Ended are those of
	// clients that an acknowledged unexport has fenced since.
	Attachments map[string]string `json:"attachments,omitempty"`
	Ended       []string          `json:"ended,omitempty"`
}

func (t *Thing) clone() *Thing {
	if t == nil {
		return nil
	}
	c := *t
	c.Labels, c.Refs, c.Files = maps.Clone(t.Labels), maps.Clone(t.Refs), maps.Clone(t.Files)
	c.Attachments, c.Ended = maps.Clone(t.Attachments), slices.Clone(t.Ended)
	c.States = maps.Clone(t.States)
	return &c
}

// fence ends the client's attachment.
func (t *Thing) fence(client string) {
	if fsid, found := t.Attachments[client]; found {
		t.Ended = append(t.Ended, fsid)
		delete(t.Attachments, client)
	}
}

// World holds the possible things of each name, nil for none. A name has several while a request
// has no answer.
type World struct {
	Possible map[Key][]*Thing
	Problems []string // invalid answers
	open     map[int]pending

	unexported map[attachment]bool // requested since everything was last verified
}

// attachment is a client that a volume is exported to.
type attachment struct {
	key    Key
	client string
}

type pending struct {
	request Request
	files   map[string]string // of the source at the time of the request
}

// NewWorld returns the world that a journal describes.
func NewWorld(entries []Entry) *World {
	w := &World{Possible: map[Key][]*Thing{}, open: map[int]pending{}, unexported: map[attachment]bool{}}
	for _, e := range entries {
		switch {
		case e.Request != nil:
			w.open[e.Number] = pending{*e.Request, w.sourceFiles(*e.Request)}
			if e.Request.Verb == Unexport {
				w.unexported[attachment{e.Request.Key, e.Request.Client}] = true
			}
		case e.Answer != nil:
			w.answered(e.Number, *e.Answer)
		case e.Synced != nil:
			w.synced(*e.Synced)
		case e.Change != nil:
			w.changed(*e.Change)
		case e.State != nil:
			w.restart(e.State)
		}
	}
	for _, number := range slices.Sorted(maps.Keys(w.open)) {
		w.perhaps(w.open[number])
	}
	return w
}

// Of returns the possible things of a key.
func (w *World) Of(k Key) []*Thing {
	if possible := w.Possible[k]; len(possible) > 0 {
		return possible
	}
	return []*Thing{nil}
}

// Certain returns the thing of a key, nil if there is none or if it is not certain.
func (w *World) Certain(k Key) *Thing {
	if possible := w.Of(k); len(possible) == 1 {
		return possible[0]
	}
	return nil
}

// restart sets the verified state, in which the results of requests without an answer are known.
func (w *World) restart(state map[Key]*Thing) {
	clear(w.Possible)
	clear(w.open)
	clear(w.unexported)
	for k, t := range state {
		w.Possible[k] = []*Thing{t.clone()} // the journal may be read again
	}
}

// owner returns the worker that alone makes requests for a name: the part before the dash.
func owner(k Key) string {
	name, _, _ := strings.Cut(k.Name(), "-")
	return name
}

// sourceFiles returns the files that a clone or snapshot must contain if it is requested now.
// Sources of other workers may be deleted and created again in the meantime.
func (w *World) sourceFiles(r Request) map[string]string {
	if r.Source == "" || owner(r.Source) != owner(r.Key) {
		return nil
	}
	if source := w.Certain(r.Source); source != nil {
		return maps.Clone(source.Files)
	}
	return nil
}

func (w *World) synced(f File) {
	for _, t := range w.Of(f.Key) {
		if t != nil {
			if t.Files == nil {
				t.Files = map[string]string{}
			}
			t.Files[f.Name] = f.Sum
		}
	}
}

func (w *World) changed(c Change) {
	for _, t := range w.Of(c.Key) {
		if t != nil {
			if t.States == nil {
				t.States = map[string][]string{}
			}
			t.States[c.Name] = c.States
		}
	}
}

func (w *World) answered(number int, a Answer) {
	p, found := w.open[number]
	if !found {
		return
	}
	delete(w.open, number)
	switch certainty(a.Code) {
	case done:
		var after []*Thing
		for _, before := range w.Of(p.request.Key) {
			after = append(after, acknowledged(p, a, before))
		}
		w.Possible[p.request.Key] = after
	case refused:
	case open:
		w.perhaps(p)
	case wrong:
		w.Problems = append(w.Problems, fmt.Sprintf("%s %s: %s: %s", p.request.Verb, p.request.Key, a.Code, a.Error))
	}
}

type outcome int

const (
	done outcome = iota
	refused
	open  // may or may not have happened
	wrong // an invalid answer unless there is a fault
)

func certainty(code agentapi.Code) outcome {
	switch code {
	case "":
		return done
	case agentapi.NotFound, agentapi.AlreadyExists, agentapi.Busy, agentapi.Invalid, agentapi.NoSpace:
		return refused
	case agentapi.Unavailable:
		return open
	}
	return wrong
}

// acknowledged returns the state after a request with a successful answer.
func acknowledged(p pending, a Answer, before *Thing) *Thing {
	r := p.request
	if r.Verb == Delete {
		return nil
	}
	if a.Thing == nil { // an export or unexport
		after := after(p, before)
		t := after[len(after)-1]
		if r.Verb == Unexport && t != nil {
			t = t.clone()
			t.fence(r.Client)
		}
		return t
	}
	t := a.Thing.clone()
	if before != nil {
		t.Refs, t.Files = maps.Clone(before.Refs), maps.Clone(before.Files)
		t.Attachments, t.Ended = maps.Clone(before.Attachments), slices.Clone(before.Ended)
		t.States = maps.Clone(before.States)
	} else {
		t.Files = maps.Clone(p.files)
	}
	return t
}

// perhaps adds the possible results of a request whose answer is unknown.
func (w *World) perhaps(p pending) {
	possible := w.Of(p.request.Key)
	for _, before := range possible {
		possible = append(possible, after(p, before)...)
	}
	w.Possible[p.request.Key] = possible
}

// after returns the possible results of a request, the intended one last.
func after(p pending, before *Thing) []*Thing {
	r := p.request
	switch {
	case r.Verb == Delete && (before == nil || len(before.Refs) > 0), r.Verb == Unexport && before == nil:
		return []*Thing{before}
	case r.Verb == Delete:
		return []*Thing{nil}
	case r.Verb == Unexport:
		return without(before, r)
	case r.Verb == Export || r.Verb == Update:
		if before == nil {
			return []*Thing{nil}
		}
		t := before.clone()
		if r.Verb == Export {
			if t.Refs == nil {
				t.Refs = map[string]bool{}
			}
			t.Refs[refKey(r.Client, r.Labels)] = r.ReadOnly
		} else {
			t.update(r)
		}
		return []*Thing{t}
	case before != nil: // a repetition or a conflict
		return []*Thing{before}
	}
	return []*Thing{made(p)}
}

func (t *Thing) update(r Request) {
	if r.Size > 0 {
		t.Size, t.Quota = r.Size, max(r.Size, t.Quota)
	}
	if r.Mode != "" {
		t.Mode, t.UID = r.Mode, r.UID
	}
	if r.Labels != nil {
		t.Labels = r.Labels
	}
}

func made(p pending) *Thing {
	r := p.request
	t := &Thing{Size: r.Size, Quota: r.Size, UID: r.UID, Mode: r.Mode, Labels: r.Labels, Files: p.files}
	t.Compression, t.NoCOW = storage(r.Storage)
	switch {
	case r.Verb == Snapshot:
		t.Inherits, t.Volume = true, r.Source.Name()
	case r.Verb == Clone && r.Source.IsSnapshot():
		t.Inherits, t.SourceSnapshot = true, r.Source.Name()
	case r.Verb == Clone:
		t.Inherits, t.SourceVolume = true, r.Source.Name()
	}
	return t
}

func storage(s string) (compression string, nocow bool) {
	if s == "nocow" {
		return "", true
	}
	return s, false
}

func refKey(client string, labels map[string]string) string {
	key := client
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		key += " " + k + "=" + labels[k]
	}
	return key
}

// without returns the intermediate states while the client's references are removed: a crash may
// leave some.
func without(before *Thing, r Request) []*Thing {
	states := []*Thing{before.clone()}
	for _, key := range slices.Sorted(maps.Keys(before.Refs)) {
		if key != r.Client && !strings.HasPrefix(key, r.Client+" ") {
			continue
		}
		for _, t := range slices.Clone(states) {
			less := t.clone()
			delete(less.Refs, key)
			states = append(states, less)
		}
	}
	return states
}

// undecided returns the number of names that a request without an answer left open.
func (w *World) undecided() int {
	n := 0
	for _, possible := range w.Possible {
		if len(possible) > 1 {
			n++
		}
	}
	return n
}
