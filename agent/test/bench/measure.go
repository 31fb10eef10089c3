package bench

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// load is one kind of work, done count times by a number of clients at once.
type load struct {
	name    string
	clients int
	count   int
	do      func(i int) error
}

func (l load) String() string { return fmt.Sprintf("%s/%d", l.name, l.clients) }

// result of doing a load once.
type result struct {
	times   []time.Duration // of each change, in order of length
	elapsed time.Duration   // of all
	cpu     time.Duration   // of the process that did the work, for all
}

// run does the load. cpu says what the process that does the work has used up to now; nil where it does not matter.
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

// quantile of sorted times.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(float64(len(sorted)-1)*q)]
}

// series is the results of one load, a round each.
type series []result

// pooled is all rounds as one.
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

// ratio compares two loads round by round, and takes the median: both sides of each quotient were measured within a second
// or so, so that what else the machine was doing weighs on both alike.
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
