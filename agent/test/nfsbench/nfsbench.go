// Package nfsbench measures the export engines with many exports: see "NFS exports" in
// docs/benchmarks.md. It needs a separate machine of the lab, and does not ship.
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
	Counts  []int    // numbers of exports during the measurements
	Quick   bool     // a short run, whose numbers mean little
	Log     *slog.Logger

	// Writer is a command that runs Write with the arguments after it in a separate process.
	Writer []string
}

// Row holds the results of one engine with one number of exports. Times are in nanoseconds in JSON.
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
	BusyChanges     int           // number of these changes
	HTTPGet         Times         // of reading a volume through the agent's API: the cost of a call without a change
	HTTP            Times         // of a publish through the agent's API
	HTTPRepeated    Times         // of a publish that is already on disk, and so waits for no commit
	Restore         time.Duration // from no exports until the server answers for all
	Told            time.Duration // until all exports are in the kernel's cache, so that it needs no upcalls

	// Additional memory in bytes: of the engine and of the kernel's slabs. DaemonMemory is all memory
	// of rpc.mountd.
	EngineMemory, KernelMemory, DaemonMemory int64
}

// Times are quantiles of several measurements.
type Times struct {
	Count             int
	P50, P99, Longest time.Duration
}

// Run measures and passes each complete row to each.
func Run(ctx context.Context, options Options, each func(Row) error) (err error) {
	env, err := newTestEnv()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.close()) }()
	for _, name := range options.Engines {
		for _, count := range options.Counts {
			row, err := (&run{testEnv: env, options: options, engineName: name, count: count}).measure(ctx)
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
