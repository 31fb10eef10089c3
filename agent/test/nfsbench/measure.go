package nfsbench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// timesOf sorts the times.
func timesOf(took []time.Duration) Times {
	if len(took) == 0 {
		return Times{}
	}
	slices.Sort(took)
	at := func(q float64) time.Duration { return took[int(float64(len(took)-1)*q)] }
	return Times{Count: len(took), P50: at(0.5), P99: at(0.99), Longest: took[len(took)-1]}
}

const callers = 16

// measureCallers publishes one export per call from 16 concurrent callers, for at most a few
// seconds.
func (r *run) measureCallers(ctx context.Context, row *Row) error {
	deadline := time.Now().Add(5 * time.Second)
	exports := r.take(8 * singles)
	var next, published atomic.Int64
	var all errgroup.Group
	began := time.Now()
	for range callers {
		all.Go(func() error {
			for time.Now().Before(deadline) {
				i := int(next.Add(1)) - 1
				if i >= len(exports) {
					return nil
				}
				if err := r.engine.Export(ctx, exports[i:i+1]); err != nil {
					return err
				}
				published.Add(1)
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		return err
	}
	row.PerSecond = float64(published.Load()) / time.Since(began).Seconds()
	return r.engine.Unexport(ctx, exports[:min(len(exports), int(next.Load()))])
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC() // the first collection runs finalizers, the second one frees the memory
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// slabMemory returns the memory of the kernel's slabs (proc_meminfo(5)).
func slabMemory() int64 {
	kib, err := kibibytes("/proc/meminfo", "Slab:")
	if err != nil {
		return 0
	}
	return kib << 10
}

// daemonMemory returns the resident set of rpc.mountd, if it runs.
func (r *run) daemonMemory() (int64, error) {
	pid := r.lab.Storage.DaemonPID(mountd)
	if pid == 0 {
		return 0, nil
	}
	kib, err := kibibytes(fmt.Sprintf("/proc/%d/status", pid), "VmRSS:")
	return kib << 10, err
}

func kibibytes(file, name string) (int64, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	_, after, found := strings.Cut(string(content), name)
	fields := strings.Fields(after)
	if !found || len(fields) == 0 {
		return 0, errors.New(file + " has no " + name)
	}
	return strconv.ParseInt(fields[0], 10, 64)
}
