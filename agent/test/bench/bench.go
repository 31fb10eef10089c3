// Package bench measures the agent over HTTP on a real btrfs filesystem. It compares it with the
// same system calls without an agent in the same run. docs/benchmarks.md explains the results. It
// does not ship.
package bench

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"
)

// Options of a run.
type Options struct {
	// Server is a command that runs Serve with the arguments after it in a separate process, so that
	// its CPU time and memory are separate from those of the clients.
	Server []string
	// Quick runs each measurement once with few objects, to show that it works. Its numbers mean
	// little.
	Quick bool
	// Only is "changes" or "scale". "" means both.
	Only string
	// Rounds is the number of rounds of the changes. 0 means the default.
	Rounds int
	// Profile is a file for a CPU profile of the agent while it serves the changes. "" means none.
	Profile string
	Log     *slog.Logger // progress
}

// size holds the numbers of objects of a run.
type size struct {
	rounds    int
	each      int   // changes by one client in a round
	snapshots int   // number of changes that cost a transaction each, by one of many clients
	lists     []int // numbers of volumes for the lists
	volumes   int   // volumes at which start, memory and a page are measured, with as many snapshots
	lookups   int   // requests of one client
	idle      time.Duration
}

func (o Options) size() size {
	s := size{
		rounds: 10, each: 20, snapshots: 5, lists: []int{10, 1000, 5000}, volumes: 10_000, lookups: 200, idle: 2 * time.Minute,
	}
	if o.Quick {
		s = size{rounds: 1, each: 3, snapshots: 1, lists: []int{10, 50}, volumes: 50, lookups: 5, idle: time.Second}
	}
	if o.Rounds > 0 {
		s.rounds = o.Rounds
	}
	return s
}

// Run measures and writes the report as Markdown.
func Run(ctx context.Context, options Options, out io.Writer) (err error) {
	begin, load := time.Now(), loadAverage()
	host := newHost(ctx)
	defer func() { err = host.end(recover(), err) }()
	r := &report{size: options.size(), quick: options.Quick, loadBefore: load}
	suites := []struct {
		name string
		run  func(*workbench, *report) error
	}{{"changes", measureChanges}, {"scale", measureScale}}
	for _, suite := range suites {
		if options.Only != "" && options.Only != suite.name {
			continue
		}
		w, err := newWorkbench(host, options) // a separate filesystem, because the number of objects affects the cost of each
		if err != nil {
			return err
		}
		r.machine = describeMachine(w.Pool)
		if err := suite.run(w, r); err != nil {
			return fmt.Errorf("%s: %w", suite.name, err)
		}
	}
	r.took, r.loadAfter = time.Since(begin), loadAverage()
	return r.write(out)
}
