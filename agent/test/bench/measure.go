package bench

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// load is one kind of work, which a number of clients do count times at once.
type load struct {
	name    string
	clients int
	count   int
	do      func(i int) error
}

func (l load) String() string { return fmt.Sprintf("%s/%d", l.name, l.clients) }

// result is the result of one run of a load.
type result struct {
	times   []time.Duration // of each change, sorted
	elapsed time.Duration   // of all changes
	cpu     time.Duration   // of the process that did the work, for all changes
}

// run runs the load. cpu returns the CPU time that the process has used so far. It is nil if the
// CPU time is not measured.
func (l load) run(cpu func() (time.Duration, error)) (r result, err error) {
	if cpu == nil {
		cpu = func() (time.Duration, error) { return 0, nil }
	}
	before, err := cpu()
	if err != nil {
		return r, err
	}
	r.times = make([]time.Duration, l.count)
	var next atomic.Int64
	var clients errgroup.Group
	begin := time.Now()
	for range min(l.clients, l.count) {
		clients.Go(func() error {
			for i := int(next.Add(1)) - 1; i < l.count; i = int(next.Add(1)) - 1 {
				start := time.Now()
				if err := l.do(i); err != nil {
					return err
				}
				r.times[i] = time.Since(start)
			}
			return nil
		})
	}
	if err := clients.Wait(); err != nil {
		return r, fmt.Errorf("%s: %w", l, err)
	}
	r.elapsed = time.Since(begin)
	slices.Sort(r.times)
	after, err := cpu()
	r.cpu = after - before
	return r, err
}

func (r result) p50() float64  { return quantile(r.times, 0.5).Seconds() }
func (r result) rate() float64 { return float64(len(r.times)) / r.elapsed.Seconds() }

// quantile returns a quantile of sorted times.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(float64(len(sorted)-1)*q)]
}

// series holds the results of one load, one per round.
type series []result

// pooled joins all rounds to one result.
func (s series) pooled() result {
	var all result
	for _, r := range s {
		all.times = append(all.times, r.times...)
		all.elapsed += r.elapsed
		all.cpu += r.cpu
	}
	slices.Sort(all.times)
	return all
}

func (s series) cpuPerChange() time.Duration {
	all := s.pooled()
	return all.cpu / time.Duration(max(len(all.times), 1))
}

// ratio compares two loads round by round and returns the median. Both sides of each quotient were
// measured within about a second, so that other load of the machine affects both equally.
func ratio(a, b series, by func(result) float64) float64 {
	quotients := make([]float64, 0, len(a))
	for i := range min(len(a), len(b)) {
		quotients = append(quotients, by(a[i])/by(b[i]))
	}
	return median(quotients)
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	middle := len(values) / 2
	if len(values)%2 == 1 {
		return values[middle]
	}
	return (values[middle-1] + values[middle]) / 2
}
