package crash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// ConfigVariable is the environment variable that holds the Config of Main, as JSON.
const ConfigVariable = "BNC_CRASH"

// Config configures the program in the guest.
type Config struct {
	Dir         string // on the host: journal, agent's log, exports files
	Bin         string // directory of btrfs-nfs-agent
	Engine      string // exportfs or kernel
	Quota       string // full or simple
	Seed        uint64
	LoseExports bool // the exports files are lost
	CheckFirst  bool // check --repair before the agent starts
	CheckAfter  bool // and again after the agent has exited
	Last        bool // verify only
	ClearOut    bool // verify, and delete all volumes and snapshots
	Clients     bool // only clients make changes, and only the agent commits them
	Kills       int  // instead of waiting for a power cut, kill the agent this many times

	Record *Recording // instead of waiting for a power cut
	Replay *Replay    // not in a guest: see Replay
	Fault  string     // fault of the disk during the changes
}

func (c Config) path(name string) string { return filepath.Join(c.Dir, name) }

// Loading is the line that reports to the host that changes begin.
const Loading = "loading"

// loadTime limits how long the guest waits for the power cut.
const loadTime = 10 * time.Minute

// Main is the program in the guest. It returns the exit code of the process.
func Main() int {
	var c Config
	err := json.Unmarshal([]byte(os.Getenv(ConfigVariable)), &c)
	if err == nil {
		err = run(c)
	}
	if err != nil {
		fmt.Println("FAILED:", err)
		return 1
	}
	return 0
}

func run(c Config) error {
	if c.Replay != nil {
		return c.replay()
	}
	journal, entries, err := OpenJournal(c.path("journal"))
	if err != nil {
		return err
	}
	if err := c.makeDevice(journal); err != nil {
		return err
	}
	m, err := newMachine(c)
	if err != nil {
		return err
	}
	if len(entries) == 0 { // the disk is new
		if err := m.initPool(); err != nil {
			return err
		}
	}
	if c.Kills > 0 {
		return m.kills(journal)
	}
	w, err := m.recover(journal, NewWorld(survived(entries)))
	switch {
	case err != nil:
		return err
	case c.ClearOut:
		return m.clearOut(w)
	case c.Last:
		return m.scrub()
	case c.Record != nil:
		return m.record(journal, w)
	case c.Fault != "":
		return m.meetFault(journal, w)
	}
	fmt.Println(Loading)
	ctx, cancel := context.WithTimeout(context.Background(), loadTime)
	defer cancel()
	load := &workload{machine: m, journal: journal, world: w, seed: c.Seed}
	if err := load.run(ctx); err != nil {
		return err
	}
	return fmt.Errorf("the power was not cut within %v, or the agent has ended", loadTime)
}

// makeDevice creates the device of the pool if it is not the disk.
func (c Config) makeDevice(journal *Journal) error {
	switch {
	case c.Record != nil:
		journal.mark = c.Record.mark
		return c.Record.begin()
	case c.Fault != "":
		return createDevice(faultyDevice, disk, soundTable)
	}
	return nil
}

// recover starts the agent after a crash, unless it runs, and verifies all volumes and snapshots.
// After that, the offline check must find nothing.
func (m *machine) recover(journal *Journal, w *World) (*World, error) {
	began := time.Now()
	if !m.runs() {
		if err := m.bringBack(); err != nil {
			return nil, err
		}
	}
	ready := time.Since(began)
	state, lost, err := m.verify(w)
	if err != nil {
		return nil, err
	}
	if err := journal.Note(Entry{State: state}); err != nil {
		return nil, err
	}
	if m.config.CheckAfter {
		if err := errors.Join(m.endAgent(syscall.SIGTERM), m.check(false), m.startAgent()); err != nil {
			return nil, err
		}
	}
	fmt.Printf("verified %d things, %d of %d names were open, %d changes by clients are lost; agent ready after %v, all in %v\n",
		len(state), w.undecided(), len(w.Possible), lost, ready.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	return NewWorld([]Entry{{State: state}}), nil
}
