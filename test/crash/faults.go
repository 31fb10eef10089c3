package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// Faults of the disk: features of dm-flakey
// (Documentation/admin-guide/device-mapper/dm-flakey.rst).
const (
	Errors      = "errors"       // in all reads and writes, permanent
	WriteErrors = "write errors" // permanent
	ShortErrors = "short errors" // in writes, for two seconds
	LostWrites  = "lost writes"  // acknowledged, including flushes
)

const (
	linesBeforeFault = 120 // of the journal
	// changesInFault is the number of changes of each worker, changesBeforeFault that of all workers
	// before the fault.
	changesInFault, changesBeforeFault = 10, 12
	shortErrorTime                     = 2 * time.Second
	faultyDevice                       = "faulty"

	// noticeTime limits how long the agent takes to notice that the pool accepts no changes.
	noticeTime = time.Minute
	// quietTime is how long the agent runs with the fault and without requests. linesMost is the
	// maximum number of log lines per second of the fault, or per request. Nearly all requests had one
	// line at level debug.
	quietTime = 5 * time.Second
	linesMost = 10
)

// faultTable makes dm-flakey fail for an hour, after 0 s without faults. Without a feature, all
// reads and writes fail.
func faultTable(fault string) string {
	table := "flakey " + disk + " 0 0 3600"
	switch fault {
	case WriteErrors, ShortErrors:
		return table + " 1 error_writes"
	case LostWrites:
		return table + " 1 drop_writes"
	}
	return table
}

const soundTable = "linear " + disk + " 0"

// replaceTable changes the table of a device in use, without waiting for pending requests.
func replaceTable(name, target string) error {
	table, err := tableOf(disk, target)
	if err != nil {
		return err
	}
	return errors.Join(dmsetup("suspend", "--nolockfs", "--noflush", name), dmsetup("load", name, "--table", table), dmsetup("resume", name))
}

// survived returns the lines of the journal that are valid after the fault. While a disk loses
// writes, answers are not valid: a request may or may not have been done.
func survived(entries []Entry) []Entry {
	i := slices.IndexFunc(entries, func(e Entry) bool { return e.Fault == LostWrites })
	if i < 0 {
		return entries
	}
	requests := slices.DeleteFunc(slices.Clone(entries[i:]), func(e Entry) bool { return e.Request == nil })
	return slices.Concat(entries[:i], requests)
}

// meetFault makes changes, makes the disk fail, makes more changes, and waits for the power cut.
// Changes that fail must be answered with an error, and must not flood the log.
func (m *machine) meetFault(journal *Journal, w *World) error {
	ctx, cancel := context.WithTimeout(context.Background(), loadTime)
	defer cancel()
	journal.reach(linesBeforeFault, cancel)
	load := &workload{machine: m, journal: journal, world: w, seed: m.config.Seed}
	if err := load.run(ctx); err != nil {
		return err
	}
	entries, err := ReadJournal(m.config.path("journal"))
	if err != nil {
		return err
	}
	load.world = NewWorld(entries)

	fault := m.config.Fault
	began := time.Now()
	before, err := m.logLines()
	if err != nil {
		return err
	}
	made, failed, err := load.runInto(func() error { return m.beginFault(journal) })
	if err = errors.Join(err, m.noticed(fault, failed)); err != nil {
		return err
	}
	time.Sleep(quietTime) // an absence of log lines has no event to wait for
	after, err := m.logLines()
	if err != nil {
		return err
	}
	fmt.Printf("%s: %d of %d changes failed, %d lines in the log\n", fault, failed, made, after-before)
	if most := linesMost * (made + int(time.Since(began).Seconds())); after-before > most {
		return fmt.Errorf("the agent has logged %d lines, more than %d", after-before, most)
	}
	if !m.runs() {
		return errors.New("the agent has ended")
	}
	fmt.Println(Loading)
	time.Sleep(loadTime)
	return fmt.Errorf("the power was not cut within %v", loadTime)
}

// beginFault starts the fault of the disk, and ends it if it is a short one.
func (m *machine) beginFault(journal *Journal) error {
	fault := m.config.Fault
	if err := errors.Join(journal.Note(Entry{Fault: fault}), replaceTable(faultyDevice, faultTable(fault))); err != nil {
		return err
	}
	if fault != ShortErrors {
		return nil
	}
	time.Sleep(shortErrorTime)
	return replaceTable(faultyDevice, soundTable)
}

// runInto makes some changes of each worker, without clients that use the volumes, and starts the
// fault during the first ones. Each change gets an answer.
func (w *workload) runInto(begin func() error) (made, failed int, err error) {
	var all sync.WaitGroup
	var answers, failures atomic.Int64
	for i := range workers {
		worker := w.newWorker(fmt.Sprintf("w%d", i), uint64(100+i))
		all.Go(func() {
			for range changesInFault {
				if !worker.changeInFault() {
					failures.Add(1)
				}
				if answers.Add(1) == changesBeforeFault {
					w.fail(begin())
				}
			}
		})
	}
	all.Wait()
	return int(answers.Load()), int(failures.Load()), w.failure
}

// changeInFault makes one change. After an error, it is open whether the change was made.
func (w *worker) changeInFault() bool {
	r, useful := w.pick()
	for !useful {
		r, useful = w.pick()
	}
	number, err := w.journal.Request(r)
	if err != nil {
		return false
	}
	thing, err := call(context.Background(), w.api, r)
	a := Answer{Thing: thing}
	if err != nil {
		a = Answer{Code: agentapi.CodeOf(err), Error: err.Error()}
		if certainty(a.Code) == wrong {
			a.Code = agentapi.Unavailable // correct for a disk that fails
		}
	} else {
		w.believe(r, thing)
	}
	return w.journal.Note(Entry{Number: number, Answer: &a}) == nil && (err == nil || certainty(a.Code) == refused)
}

// noticed checks that permanent errors fail changes, and that health reports them.
func (m *machine) noticed(fault string, failed int) error {
	if fault != Errors && fault != WriteErrors {
		return nil
	}
	if failed == 0 {
		return errors.New("the disk fails, and no change does")
	}
	for deadline := time.Now().Add(noticeTime); ; time.Sleep(50 * time.Millisecond) {
		health, err := m.api.Health(context.Background())
		if err == nil && slices.ContainsFunc(health.Conditions, isReadOnly) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("health does not say that the pool takes no changes: %v %w", health, err)
		}
	}
}

func isReadOnly(c agentapi.Condition) bool { return c.Reason == agentapi.ReasonPoolReadOnly }

// logLines returns the number of lines in the agent's log.
func (m *machine) logLines() (int, error) {
	content, err := os.ReadFile(m.log.Name())
	return bytes.Count(content, []byte("\n")), err
}
