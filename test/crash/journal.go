package crash

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// Verbs of requests.
const (
	Create   = "create"
	Clone    = "clone"
	Update   = "update"
	Export   = "export"
	Unexport = "unexport"
	Snapshot = "snapshot"
	Delete   = "delete"
)

// Request is one change that is requested from the agent.
type Request struct {
	Verb     string            `json:"verb"`
	Key      Key               `json:"key"`              // subject of the change
	Source   Key               `json:"source,omitempty"` // of a clone or snapshot
	Size     int64             `json:"size,omitempty"`
	UID      int64             `json:"uid,omitempty"`
	Mode     string            `json:"mode,omitempty"`
	Storage  string            `json:"storage,omitempty"` // a compression, or "nocow"
	Labels   map[string]string `json:"labels,omitempty"`
	Client   string            `json:"client,omitempty"`
	ReadOnly bool              `json:"read_only,omitempty"`
}

// Key names a volume or snapshot: kind and name.
type Key string

// Volume returns the key of a volume.
func Volume(name string) Key { return Key("volume/" + name) }

// Snap returns the key of a snapshot.
func Snap(name string) Key { return Key("snapshot/" + name) }

// IsSnapshot reports whether the key is that of a snapshot.
func (k Key) IsSnapshot() bool { return bytes.HasPrefix([]byte(k), []byte("snapshot/")) }

// Name returns the key without its kind.
func (k Key) Name() string {
	_, name, _ := bytes.Cut([]byte(k), []byte("/"))
	return string(name)
}

// Answer is the agent's answer. Without an answer, or with one that leaves the result open, Certain
// is false for the Code.
type Answer struct {
	Code  agentapi.Code `json:"code,omitempty"` // "" for success
	Error string        `json:"error,omitempty"`
	Thing *Thing        `json:"thing,omitempty"` // result of a create, clone, snapshot or update
}

// File is a file that a client has written and fsynced.
type File struct {
	Key  Key    `json:"key"`
	Name string `json:"name"`
	Sum  string `json:"sum"`
}

// Change is a client's change in a volume, planned or done: of a directory, a file or a database. A
// power cut may leave any of the states. Clients see the last one.
type Change struct {
	Key    Key      `json:"key"`
	Name   string   `json:"name"`
	States []string `json:"states"`
}

// Entry is a line of the journal. Exactly one of the pointers is set. Only Answer uses Number
// without a Request.
type Entry struct {
	Number  int            `json:"n,omitempty"` // relates an answer to its request
	Request *Request       `json:"request,omitempty"`
	Answer  *Answer        `json:"answer,omitempty"`
	Synced  *File          `json:"synced,omitempty"`
	Change  *Change        `json:"change,omitempty"`
	State   map[Key]*Thing `json:"state,omitempty"` // everything, as verified after a crash
	Fault   string         `json:"fault,omitempty"` // the disk has the fault from here on
	At      time.Time      `json:"at"`
}

// Journal appends entries to a file that survives the machine that writes it.
type Journal struct {
	mu    sync.Mutex
	file  *os.File
	next  int
	lines int                   // number of lines
	mark  func(lines int) error // if set, called after each line
}

// OpenJournal reads the entries, and opens the file to append. It skips a line that the crash
// truncated: its request was not sent, or its answer reached no client.
func OpenJournal(path string) (*Journal, []Entry, error) {
	entries, err := ReadJournal(path)
	if err != nil {
		return nil, nil, err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, err
	}
	if _, err := file.WriteString("\n"); err != nil { // ends a truncated line
		return nil, nil, err
	}
	return &Journal{file: file, next: len(entries) + 1, lines: len(entries)}, entries, nil
}

// ReadJournal reads the same entries as OpenJournal. It returns none if the file does not exist.
func ReadJournal(path string) ([]Entry, error) {
	content, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var entries []Entry
	for line := range bytes.Lines(content) {
		var e Entry
		if json.Unmarshal(line, &e) == nil {
			entries = append(entries, e)
		}
	}
	return entries, nil
}

// Request records a request before it is sent, and returns its number for the answer.
func (j *Journal) Request(r Request) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.next++
	return j.next, j.write(Entry{Number: j.next, Request: &r})
}

// Note appends an entry.
func (j *Journal) Note(e Entry) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.write(e)
}

func (j *Journal) write(e Entry) error {
	e.At = time.Now()
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if _, err := j.file.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	j.lines++
	if j.mark == nil {
		return nil
	}
	return j.mark(j.lines)
}

// reach calls done when the journal has grown by this number of lines.
func (j *Journal) reach(lines int, done func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	mark, end := j.mark, j.lines+lines
	j.mark = func(lines int) error {
		if lines >= end {
			done()
		}
		if mark == nil {
			return nil
		}
		return mark(lines)
	}
}
