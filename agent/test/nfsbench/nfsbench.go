// Package nfsbench measures how the export engines bear many exports: see "NFS exports" in docs/benchmarks.md. It needs a
// machine of the lab for itself, and does not ship.
package nfsbench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Options of a run.
type Options struct {
	Engines []string // "kernel", "exportfs"
	Counts  []int    // how many exports there are while it is measured
	Quick   bool     // a short run, whose numbers mean little
	Log     *slog.Logger

	// Writer is a command that runs Write with the arguments behind it in a process of its own.
	Writer []string
}

// Row is what was measured of one engine with one number of exports. Times are in nanoseconds in JSON.
type Row struct {
	Engine  string
	Exports int
	Quick   bool `json:",omitempty"`
	Date    string
	Kernel  string

	Publish, Revoke Times
	PerSecond       float64       // publishes by 16 callers
	Idle            Times         // of a steady create, write of 4 KiB and fsync on another mount
	Busy            Times         // of the same while exports are published and revoked
	BusyChanges     int           // how many were, meanwhile
	HTTPGet         Times         // of reading a volume through the agent's API: what a call costs that changes nothing
	HTTP            Times         // of a publish through the agent's API
	HTTPRepeated    Times         // of a publish that is on the disk already, and so has no commit to wait for
	Restore         time.Duration // from nothing until the server answers for all exports
	Told            time.Duration // until the kernel has been told them all, and needs to ask for none

	// In bytes, beside what the machine had before: of the engine, of the kernel's slabs, and of rpc.mountd, all of it.
	EngineMemory, KernelMemory, DaemonMemory int64
}

// Times are quantiles of a number of measurements.
type Times struct {
	Count             int
	P50, P99, Longest time.Duration
}

// Run measures, and hands over each row when it is complete.
func Run(ctx context.Context, options Options, each func(Row) error) (err error) {
	w, err := newWorld()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	for _, name := range options.Engines {
		for _, count := range options.Counts {
			row, err := (&run{world: w, options: options, engineName: name, count: count}).measure(ctx)
			if err != nil {
				return fmt.Errorf("%s, %d exports: %w", name, count, err)
			}
			if err := each(row); err != nil {
				return err
			}
		}
	}
	return nil
}
