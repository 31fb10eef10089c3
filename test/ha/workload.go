package ha

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Files in Config.Dir, on the host.
const (
	acknowledgedName = "acknowledged" // a byte for each fsynced record
	eventsName       = "events"       // a line for each Event
)

// Files in the volume.
const (
	recordsName = "records"
	lockName    = "lock"
)

// Kinds of an Event.
const (
	Pause    = "pause"    // a record took long: the duration
	Failed   = "failed"   // an operation failed that must not fail
	Name     = "name"     // an operation on names failed, like one that is repeated after it was done
	Released = "released" // the writer released its lock
	Taken    = "taken"    // the contender got the lock
)

// Event is a note of a program on the nodes.
type Event struct{ Kind, Detail string }

// Events returns the events that the programs have recorded in dir, in order.
func Events(dir string) ([]Event, error) {
	content, err := os.ReadFile(filepath.Join(dir, eventsName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var events []Event
	for line := range strings.Lines(string(content)) {
		kind, detail, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		events = append(events, Event{kind, detail})
	}
	return events, nil
}

// Acknowledged returns the number of fsynced records.
func Acknowledged(dir string) (int, error) { return size(filepath.Join(dir, acknowledgedName)) }

// Rows returns the number of rows that PostgreSQL has committed.
func Rows(dir string) (int, error) { return size(filepath.Join(dir, rowsName)) }

func size(path string) (int, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return int(info.Size()), nil
}

// notes are files on the host, which has the data at once.
type notes struct{ events, acknowledged *os.File }

func openNotes(dir string) (*notes, error) {
	const flags = os.O_CREATE | os.O_APPEND | os.O_WRONLY
	events, err := os.OpenFile(filepath.Join(dir, eventsName), flags, 0o644)
	if err != nil {
		return nil, err
	}
	acknowledged, err := os.OpenFile(filepath.Join(dir, acknowledgedName), flags, 0o644)
	return &notes{events, acknowledged}, err
}

func (n *notes) event(kind, format string, args ...any) {
	if _, err := n.events.WriteString(kind + " " + fmt.Sprintf(format, args...) + "\n"); err != nil {
		panic(err)
	}
}

// record returns the content of record i.
func record(i int) []byte {
	return append(bytes.Repeat([]byte{byte('a' + i%26)}, 50), fmt.Sprintf(" %012d\n", i)...)
}

const (
	recordDelay = 5 * time.Millisecond   // between two records
	otherDelay  = 50 * time.Millisecond  // between two other operations
	openTime    = 200 * time.Millisecond // that changeFiles keeps a file, and after that its removed file
	pauseLeast  = 500 * time.Millisecond // shortest recorded pause
	releaseTime = 2 * time.Minute        // for the contender, after the writer's end
	openFiles   = 4                      // at a time, of changeFiles
)

// write works like a database, until SIGTERM. It appends records and fsyncs each. It holds a lock
// and writes under it. It creates, renames and removes directories and files.
func write(c Config) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	n, err := openNotes(c.Dir)
	if err != nil {
		return err
	}
	locked, err := lock(c.Volume)
	if err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	records, err := os.OpenFile(filepath.Join(c.Volume, recordsName), os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	all.Go(func() { writeRecords(ctx, n, records) })
	all.Go(func() { writeLocked(ctx, n, locked) })
	all.Go(func() { changeNames(ctx, n, c.Volume) })
	for i := range openFiles {
		all.Go(func() { changeFiles(ctx, c.Volume, i) })
	}
	all.Wait()
	n.event(Released, "")
	return errors.Join(locked.Close(), records.Close())
}

func writeRecords(ctx context.Context, n *notes, f *os.File) {
	for i := 0; ctx.Err() == nil; i++ {
		begun := time.Now()
		content := record(i)
		_, err := f.WriteAt(content, int64(i*len(content)))
		if err = errors.Join(err, f.Sync()); err != nil {
			n.event(Failed, "record %d: %v", i, err)
			return
		}
		if took := time.Since(begun); took > pauseLeast {
			n.event(Pause, "%v", took.Round(time.Millisecond))
		}
		if _, err := n.acknowledged.Write([]byte{'.'}); err != nil {
			panic(err)
		}
		wait(ctx, recordDelay)
	}
}

// writeLocked uses the lock. If the lock of a file is lost, the kernel fails writes to the file
// with EIO (nfs4_proc_lock and nfs_ctx_key_to_expire in fs/nfs of Linux).
func writeLocked(ctx context.Context, n *notes, f *os.File) {
	for i := 0; ctx.Err() == nil; i++ {
		_, err := f.WriteAt(record(i), 0)
		if err = errors.Join(err, f.Sync()); err != nil {
			n.event(Failed, "write under the lock: %v", err)
			return
		}
		wait(ctx, otherDelay)
	}
}

// changeFiles keeps new and removed files open, with a lock. A power cut loses some of them, and
// then the client cannot reclaim these. The writer's other files and its lock must not suffer from
// it. Errors are expected here.
func changeFiles(ctx context.Context, dir string, worker int) {
	for i := 0; ctx.Err() == nil; i++ {
		path := filepath.Join(dir, fmt.Sprintf("file-%d-%d", worker, i))
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
		if err != nil {
			wait(ctx, otherDelay)
			continue
		}
		_ = unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
		_, _ = f.Write(record(i))
		wait(ctx, openTime)
		_ = os.Remove(path)
		wait(ctx, openTime)
		_ = f.Close()
	}
}

func changeNames(ctx context.Context, n *notes, dir string) {
	for i := 0; ctx.Err() == nil; i++ {
		from, to := filepath.Join(dir, fmt.Sprintf("from-%d", i)), filepath.Join(dir, fmt.Sprintf("to-%d", i))
		for _, err := range []error{os.Mkdir(from, 0o755), os.Rename(from, to), os.Remove(to)} {
			if errors.Is(err, unix.ESTALE) || errors.Is(err, unix.EIO) {
				n.event(Failed, "%v", err)
			} else if err != nil {
				n.event(Name, "%v", err)
			}
		}
		wait(ctx, recordDelay)
	}
}

// contend tries to get the writer's lock, until SIGTERM. By then the writer has released it, and
// contend must get it.
func contend(c Config) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	n, err := openNotes(c.Dir)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		f, err := lock(c.Volume)
		switch {
		case err == nil:
			n.event(Taken, "")
			_ = f.Close()
		case !errors.Is(err, unix.EAGAIN):
			n.event(Failed, "contend for the lock: %v", err)
			return nil
		}
		wait(ctx, otherDelay)
	}
	for deadline := time.Now().Add(releaseTime); ; time.Sleep(otherDelay) {
		f, err := lock(c.Volume)
		if err == nil {
			return f.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the lock is released, and cannot be had: %w", err)
		}
	}
}

// lock opens the lock file, and locks it if it is free.
func lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	err = unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
