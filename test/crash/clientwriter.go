package crash

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	clientWriters     = 1 // in addition to the workers
	onlyClientWriters = 2 // if there are no others
	treesEach         = 4 // directories of a writer
	filesReplaced     = 2
	treeNames         = "abcd" // names in a directory
	contentMost       = 4000   // bytes: a client writes it with one request
)

// clientWriter is a worker whose volume a node mounts. It changes the tree in the volume, replaces
// files and commits transactions of databases.
//
// The server answers these requests before they are durable. So each name in the volume has several
// states that a power cut may leave. The journal has them before a change begins and after it was
// acknowledged. After a commit of the filesystem, one state is left: see settle.
type clientWriter struct {
	*worker
	volume    Key
	dir       string              // mount point of the volume
	possible  map[string][]string // states by name; clients see the last one
	trees     map[string]tree
	databases map[string]*database
}

func newClientWriter(w *worker) *clientWriter {
	return &clientWriter{
		worker: w, volume: Volume(w.name + "-0"), possible: map[string][]string{}, trees: map[string]tree{}, databases: map[string]*database{},
	}
}

func (w *clientWriter) run(ctx context.Context) (err error) {
	node := w.machine.lab.Nodes[0].IP.String()
	if w.have[w.volume] == nil && !w.do(ctx, Request{Verb: Create, Key: w.volume, Size: 256 * mib, Mode: "0777", Labels: w.labels()}) {
		return nil
	}
	maps.Copy(w.possible, w.have[w.volume].States)
	if !w.do(ctx, Request{Verb: Export, Key: w.volume, Client: node, Labels: map[string]string{"by": "writer"}}) {
		return nil
	}
	dir, unmount, err := w.machine.mount(w.volume)
	if err != nil {
		return err
	}
	w.dir = dir
	defer func() { err = errors.Join(err, w.closeDatabases(), unmount()) }()
	for ctx.Err() == nil {
		if err := w.step(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("a client cannot change %s: %w", w.volume, err)
		}
	}
	return nil
}

func (w *clientWriter) step(ctx context.Context) error {
	switch n := w.random.IntN(10); {
	case n < 5:
		return w.changeTree(ctx, fmt.Sprintf("tree-%d", w.random.IntN(treesEach)))
	case n < 7:
		return w.replace(fmt.Sprintf("file-%d", w.random.IntN(filesReplaced)))
	case n < 9:
		return w.insert(ctx, journalModes[w.random.IntN(len(journalModes))])
	}
	return w.settle(ctx)
}

// change makes a change that results in the state after, and is not durable when it has ended.
// between are intermediate states.
func (w *clientWriter) change(name string, do func() error, after string, between ...string) error {
	before := w.possible[name]
	if len(before) == 0 {
		before = []string{absent}
	}
	begun := append(slices.Clip(before), between...)
	if err := w.note(name, append(begun, after)...); err != nil {
		return err
	}
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return w.note(name, append(slices.Clip(before), after)...)
}

// note records in the journal the states that a name may have after a power cut.
func (w *clientWriter) note(name string, states ...string) error {
	w.possible[name] = states
	return w.journal.Note(Entry{Change: &Change{Key: w.volume, Name: name, States: states}})
}

// settle waits until acknowledged changes are durable. Then each name has the state that the client
// sees. If there are only client writers, only the agent commits.
func (w *clientWriter) settle(ctx context.Context) error {
	generation, err := w.machine.generation()
	if err != nil {
		return err
	}
	// A transaction may be open that no client's change has started, such as that of a written file.
	// The additional change gives the agent a reason to commit it.
	pulse := filepath.Join(w.dir, "pulse")
	if err := os.Mkdir(pulse, 0o700); errors.Is(err, os.ErrExist) {
		err = os.Remove(pulse)
		if err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	if err := w.machine.awaitCommit(ctx, generation); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(w.possible)) {
		states := w.possible[name]
		if len(states) > 1 {
			if err := w.note(name, states[len(states)-1]); err != nil {
				return err
			}
		}
	}
	return nil
}

// tree is a directory: the contents of files by name. A symbolic link has its target. nil is a
// missing directory.
type tree map[string]string

const (
	absent = "absent"
	linked = "-> " // prefix of a symbolic link's content
)

func (t tree) String() string {
	if t == nil {
		return absent
	}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(t)) {
		names = append(names, name+":"+contentState(t[name]))
	}
	return "[" + strings.Join(names, " ") + "]"
}

// contentState returns the state for the content of a file.
func contentState(content string) string {
	return fmt.Sprintf("%d:%x", len(content), sha256.Sum256([]byte(content)))[:16]
}

func (t tree) with(name, content string) tree {
	out := tree{name: content}
	for other, content := range t {
		if other != name {
			out[other] = content
		}
	}
	return out
}

func (t tree) without(name string) tree {
	out := maps.Clone(t)
	delete(out, name)
	return out
}

func readTree(dir string) (tree, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	out := tree{}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		if entry.Type() == os.ModeSymlink {
			target, err := os.Readlink(path)
			if err != nil {
				return nil, err
			}
			out[entry.Name()] = linked + target
			continue
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		out[entry.Name()] = string(content)
	}
	return out, err
}

// changeTree makes one change of a directory and sometimes syncs the directory, which makes nothing
// durable. It syncs no file in the directory while an earlier change is not durable: the filesystem
// would then keep a part of the changes.
func (w *clientWriter) changeTree(ctx context.Context, name string) (err error) {
	now, known := w.trees[name]
	dir := filepath.Join(w.dir, name)
	if !known {
		if now, err = readTree(dir); err != nil {
			return err
		}
	}
	if now != nil && len(now) < len(treeNames) && w.random.IntN(8) == 0 {
		return w.fill(ctx, name, now)
	}
	do, after := w.pickChange(dir, now)
	if err := w.change(name, do, after.String()); err != nil {
		return err
	}
	w.trees[name] = after
	if after != nil && w.random.IntN(2) == 0 {
		return syncDir(dir)
	}
	return nil
}

// pickChange chooses a change of a directory, and returns its result.
func (w *clientWriter) pickChange(dir string, now tree) (do func() error, after tree) {
	name, other := w.treeName(), w.treeName()
	path := filepath.Join(dir, name)
	content, found := now[name]
	length := int64(w.random.IntN(len(content) + 1))
	switch kind := w.random.IntN(3); {
	case now == nil:
		return func() error { return os.Mkdir(dir, 0o700) }, tree{}
	case len(now) == 0 && kind == 0:
		return func() error { return os.Remove(dir) }, nil
	case !found && kind == 0:
		return func() error { return os.Symlink(other, path) }, now.with(name, linked+other)
	case !found:
		return func() error { return createEmpty(path) }, now.with(name, "")
	case kind == 0:
		return func() error { return os.Remove(path) }, now.without(name)
	case kind == 1 && len(content) > 0 && !strings.HasPrefix(content, linked):
		return func() error { return os.Truncate(path, length) }, now.with(name, content[:length])
	}
	return func() error { return os.Rename(path, filepath.Join(dir, other)) }, now.without(name).with(other, content)
}

func (w *clientWriter) treeName() string {
	i := w.random.IntN(len(treeNames))
	return treeNames[i : i+1]
}

func createEmpty(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// fill adds a file with content to a directory, to be truncated later.
func (w *clientWriter) fill(ctx context.Context, name string, now tree) error {
	if err := w.settle(ctx); err != nil {
		return err
	}
	file := ""
	for _, one := range treeNames {
		if _, found := now[string(one)]; !found {
			file = string(one)
		}
	}
	content := w.content()
	after := now.with(file, content)
	write := func() error { return writeSynced(filepath.Join(w.dir, name, file), []byte(content)) }
	if err := w.change(name, write, after.String(), now.with(file, "").String()); err != nil {
		return err
	}
	w.trees[name] = after
	return w.settle(ctx)
}

func (w *clientWriter) content() string {
	return strings.Repeat(strconv.FormatUint(w.random.Uint64(), 36), 1+w.random.IntN(contentMost/13))
}

// replace replaces a file safely: it renames a new, synced file over it. A power cut leaves the old
// file or the new one.
func (w *clientWriter) replace(name string) error {
	content := w.content()
	temporary := filepath.Join(w.dir, fmt.Sprintf("new-%x", w.random.Uint64()))
	if err := writeSynced(temporary, []byte(content)); err != nil {
		return err
	}
	rename := func() error {
		return errors.Join(os.Rename(temporary, filepath.Join(w.dir, name)), syncDir(w.dir))
	}
	return w.change(name, rename, contentState(content))
}

// journalMode is a method of a database to make a transaction durable.
type journalMode struct {
	name, pragmas string
	synced        bool // by an fsync of a file alone
}

// journalModes are those of SQLite (https://sqlite.org/pragma.html#pragma_journal_mode). DELETE,
// also with synchronous=EXTRA, and TRUNCATE commit by an unlink or a truncate of the journal.
var journalModes = []journalMode{
	{"db-delete", "PRAGMA synchronous=full; PRAGMA journal_mode=delete;", false},
	{"db-extra", "PRAGMA synchronous=extra; PRAGMA journal_mode=delete;", false},
	{"db-truncate", "PRAGMA synchronous=full; PRAGMA journal_mode=truncate;", false},
	{"db-persist", "PRAGMA synchronous=full; PRAGMA journal_mode=persist;", true},
	{"db-wal", "PRAGMA synchronous=full; PRAGMA journal_mode=wal;", true},
}

// database is a running sqlite3 with one table, whose rows are numbered from 1.
type database struct {
	process *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
	errors  bytes.Buffer
	rows    int
}

// insert commits one row.
func (w *clientWriter) insert(ctx context.Context, mode journalMode) error {
	db := w.databases[mode.name]
	if db == nil {
		var err error
		if db, err = w.openDatabase(mode); err != nil {
			return err
		}
		w.databases[mode.name] = db
		// The switch to a mode deletes the journal of the previous mode. If a power cut restores that
		// journal, SQLite reverts the switch, and with it all transactions since.
		if err := w.settle(ctx); err != nil {
			return err
		}
	}
	row := strconv.Itoa(db.rows + 1)
	before := w.possible[mode.name]
	insert := func() error {
		answer, err := db.ask("INSERT INTO t VALUES(" + row + ", randomblob(500)); SELECT 'done " + row + "';")
		if err == nil && answer != "done "+row {
			err = fmt.Errorf("sqlite3 answers %q", answer)
		}
		return err
	}
	if err := w.change(mode.name, insert, row); err != nil {
		delete(w.databases, mode.name) // the process has ended
		return err
	}
	db.rows++
	if mode.synced {
		return w.note(mode.name, row)
	}
	// The journal of the previous transaction has been replaced, so that at most the last one is lost.
	if len(before) > 0 {
		return w.note(mode.name, before[len(before)-1], row)
	}
	return nil
}

func (w *clientWriter) openDatabase(mode journalMode) (*database, error) {
	rows := 0
	if states := w.possible[mode.name]; len(states) > 0 && states[len(states)-1] != absent {
		var err error
		if rows, err = strconv.Atoi(states[len(states)-1]); err != nil {
			return nil, err
		}
	}
	path := filepath.Join(mountPoint(w.volume), mode.name)
	db := &database{process: w.machine.lab.Nodes[0].Command(context.Background(), "sqlite3", "-batch", "-bail", path), rows: rows}
	db.process.Stderr = &db.errors
	var err error
	if db.in, err = db.process.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := db.process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	db.out = bufio.NewReader(out)
	if err := db.process.Start(); err != nil {
		return nil, err
	}
	_, err = db.ask(mode.pragmas + " CREATE TABLE IF NOT EXISTS t(k INTEGER PRIMARY KEY, filler BLOB);")
	return db, err
}

// ask returns the first line of the answer.
func (db *database) ask(statements string) (string, error) {
	if _, err := io.WriteString(db.in, statements+"\n"); err != nil {
		return "", err
	}
	line, err := db.out.ReadString('\n')
	if err != nil {
		return "", errors.Join(fmt.Errorf("sqlite3: %w", err), db.close())
	}
	return strings.TrimSpace(line), nil
}

func (db *database) close() error {
	_ = db.in.Close() // sqlite3 may have ended
	err := db.process.Wait()
	if err != nil {
		return fmt.Errorf("sqlite3: %w: %s", err, strings.TrimSpace(db.errors.String()))
	}
	return nil
}

func (w *clientWriter) closeDatabases() error {
	var errs []error
	for _, db := range w.databases {
		errs = append(errs, db.close())
	}
	clear(w.databases)
	return errors.Join(errs...)
}

// clientState returns the state of a name in a volume.
func (m *machine) clientState(k Key, dir, name string) (string, error) {
	path := filepath.Join(dir, name)
	switch {
	case strings.HasPrefix(name, "tree-"):
		t, err := readTree(path)
		return t.String(), err
	case strings.HasPrefix(name, "db-"):
		if m.isHere() {
			return databaseState(m.run, path)
		}
		return databaseState(m.lab.Nodes[0].Run, filepath.Join(mountPoint(k), name))
	}
	content, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return absent, nil
	}
	return contentState(string(content)), err
}

// databaseState counts the rows of a database. No row before the last may be missing.
func databaseState(run func(string, ...string) (string, error), path string) (string, error) {
	out, err := run("sqlite3", "-batch", path,
		"CREATE TABLE IF NOT EXISTS t(k INTEGER PRIMARY KEY, filler BLOB); PRAGMA integrity_check; SELECT count(*), coalesce(max(k), 0) FROM t;")
	if err != nil {
		return "", err
	}
	check, counts, _ := strings.Cut(out, "\n")
	rows, last, _ := strings.Cut(counts, "|")
	switch {
	case check != "ok" || rows != last:
		return "corrupt: " + out, nil
	case rows == "0":
		return absent, nil
	}
	return rows, nil
}

// statesIn compares the clients' changes in a mounted volume with the states that the power cut may
// have left, and records the present state.
func (v *verifier) statesIn(dir string, k Key, t *Thing) {
	found := map[string][]string{}
	for _, name := range slices.Sorted(maps.Keys(t.States)) {
		have, err := v.machine.clientState(k, dir, name)
		possible := t.States[name]
		if err != nil || !slices.Contains(possible, have) {
			v.add("%s: %s is %s, not one of %q: %v", k, name, have, possible, err)
		}
		if have != possible[len(possible)-1] {
			v.lost++
		}
		found[name] = []string{have}
	}
	t.States = found
}
