package bench

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

// The test binary is also the agent under measurement.
const serve = "serve"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == serve {
		if err := Serve(context.Background(), os.Args[2:], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// A small run does the same steps as a real one. The test ignores the results, because the machine
// may be busy.
func TestQuickRun(t *testing.T) {
	var out strings.Builder
	err := Run(t.Context(), Options{Server: []string{os.Args[0], serve}, Quick: true, Log: slog.New(slog.DiscardHandler)}, &out)
	assert.NilError(t, err)
	for _, want := range []string{
		"| create, 64 clients, against ", "| clone of a volume | 8 |", "| by hand: snapshot | 1 |", "| delete snapshot | 64 |",
		"| list of 10 | 8 |", "| page of 100 in the middle | 1 |", "filesystem just mounted", "full quotas; rw",
	} {
		assert.Check(t, strings.Contains(out.String(), want), "%s is not in\n%s", want, out.String())
	}
	for _, unwanted := range []string{"NaN", "Inf", "%!", "unknown"} {
		assert.Check(t, !strings.Contains(out.String(), unwanted), "%s is in\n%s", unwanted, out.String())
	}
}

// A failure during a run is returned as an error, and the run cleans up.
func TestFailingAgent(t *testing.T) {
	before := mounts(t)
	err := Run(t.Context(), Options{Server: []string{"/bin/false"}, Quick: true, Log: slog.New(slog.DiscardHandler)}, &strings.Builder{})
	assert.ErrorContains(t, err, "the agent did not start")
	assert.Equal(t, mounts(t), before)
}

func mounts(t *testing.T) int {
	t.Helper()
	content, err := os.ReadFile("/proc/self/mountinfo")
	assert.NilError(t, err)
	return strings.Count(string(content), "btrfs-nfs-bench-")
}

func TestRatioIsTheMedianOfRounds(t *testing.T) {
	times := func(ms ...int) result {
		r := result{elapsed: time.Second}
		for _, m := range ms {
			r.times = append(r.times, time.Duration(m)*time.Millisecond)
		}
		return r
	}
	agent := series{times(2), times(30), times(4, 4, 4)}
	hand := series{times(1), times(10), times(4, 4, 4)}
	assert.Equal(t, ratio(agent, hand, result.p50), 2.0) // of 2, 3 and 1
	assert.Equal(t, agent.pooled().rate(), 5.0/3)
	assert.Equal(t, quantile(agent.pooled().times, 0.99), 4*time.Millisecond)
	assert.Equal(t, ratio(nil, nil, result.p50), 0.0)
}

func TestLoadStopsAtTheFirstFailure(t *testing.T) {
	_, err := load{"work", 4, 100, func(i int) error {
		if i == 3 {
			return fmt.Errorf("number %d", i)
		}
		return nil
	}}.run(nil)
	assert.Error(t, err, "work/4: number 3")
}
