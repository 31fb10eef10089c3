package e2e

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// times holds the measurements of the scenarios, in order.
var times struct {
	sync.Mutex
	order []string
	taken map[string][]time.Duration
}

func record(what string, took time.Duration) {
	times.Lock()
	defer times.Unlock()
	if times.taken == nil {
		times.taken = map[string][]time.Duration{}
	}
	if times.taken[what] == nil {
		times.order = append(times.order, what)
	}
	times.taken[what] = append(times.taken[what], took)
}

// scenarios holds the tests that have ended, in order.
var scenarios struct {
	sync.Mutex
	ended []ended
}

type ended struct {
	name   string
	took   time.Duration
	failed bool
}

// recordScenario records a scenario's end, with the time until all its objects are gone.
func recordScenario(t *testing.T, begin time.Time) {
	scenarios.Lock()
	defer scenarios.Unlock()
	scenarios.ended = append(scenarios.ended, ended{t.Name(), time.Since(begin), t.Failed()})
}

func printScenarios() {
	scenarios.Lock()
	defer scenarios.Unlock()
	fmt.Printf("\n%-50s %10s\n", "scenario, with clearing up", "time")
	for _, s := range scenarios.ended {
		result := "ok"
		if s.failed {
			result = "FAILED"
		}
		fmt.Printf("%-50s %8.1f s  %s\n", s.name, s.took.Seconds(), result)
	}
}

// timed measures a step and names it in the log.
func timed(t *testing.T, what string, step func()) time.Duration {
	t.Helper()
	begin := time.Now()
	step()
	took := time.Since(begin)
	record(what, took)
	t.Logf("%6.2f s  %s", took.Seconds(), what)
	return took
}

func printTimes() {
	times.Lock()
	defer times.Unlock()
	fmt.Printf("\n%-50s %5s %9s %9s %9s\n", "step", "times", "median", "p95", "longest")
	for _, what := range times.order {
		all := slices.Sorted(slices.Values(times.taken[what]))
		fmt.Printf("%-50s %5d %7.2f s %7.2f s %7.2f s\n", what, len(all), quantile(all, 0.5).Seconds(), quantile(all, 0.95).Seconds(), all[len(all)-1].Seconds())
	}
}

// quantile returns the smallest duration that at least the share q does not exceed.
func quantile(sorted []time.Duration, q float64) time.Duration {
	i := int(float64(len(sorted))*q+0.999999) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}
