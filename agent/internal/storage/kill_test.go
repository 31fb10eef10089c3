package storage

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

var (
	cutSeed = flag.Uint64("cut.seed", rand.Uint64(), "which steps TestPowerCut cuts at")
	cutAll  = flag.Bool("cut.all", false, "TestPowerCut cuts at every step")
)

// smallPool is enough for operations, and is copied sooner than a larger one.
var smallPool = testpool.Options{SizeBytes: 512 << 20}

// reopen is a new start of the agent after the old one is gone, whose last change was the operation.
func (r *testEnv) reopen(op operation, before, after view, acknowledged bool, what string) {
	t := r.t
	t.Helper()
	r.open()
	have := r.view()
	switch {
	case acknowledged && !slices.Equal(have, after):
		t.Errorf("%s: there is\n%q, want\n%q", what, have, after)
	case strings.HasPrefix(op.name, "unexport"): // of several references, some may be gone
		lost := have.lost(before, after)
		assert.Equal(t, len(lost), 0, "%s: there is no %q", what, lost)
	case !slices.Equal(have, before) && !slices.Equal(have, after):
		t.Errorf("%s: there is\n%q, want\n%q or\n%q", what, have, before, after)
	}
	assertRules(t, r.store)
	assert.NilError(t, op.do(t.Context(), r.ten), what)
	assert.DeepEqual(t, r.view(), after)
	if t.Failed() {
		t.FailNow()
	}
}

// The agent is killed at each step of each change. The next start finds the change whole or not at all, and everything
// else as it was.
func TestKilledAtEveryStep(t *testing.T) {
	forEachOperation(t, func(t *testing.T, _ int, op operation, quota Quota) {
		r := newTestEnvWith(t, smallPool, quota)
		before, after, steps := r.learn(op)
		for k := 1; k <= len(steps)+1; k++ {
			r.again(op, before)
			acknowledged := r.killAt(op, k)
			assert.Equal(t, acknowledged, k > len(steps), "step %d of %v", k, steps)
			r.store.abandon()
			r.faults.disarm()
			r.reopen(op, before, after, acknowledged, "killed before "+nth(steps, k))
		}
	})
}

// forEachOperation runs a test of every change in both quota modes; number counts them all.
func forEachOperation(t *testing.T, test func(t *testing.T, number int, op operation, quota Quota)) {
	for i, op := range operations() {
		for j, quota := range []Quota{QuotaFull, QuotaSimple} {
			t.Run(fmt.Sprintf("%s, %s quotas", op.name, quota), func(t *testing.T) {
				t.Parallel()
				test(t, 2*i+j, op, quota)
			})
		}
	}
}

// The agent is killed at a step of a change, and again at a step of the start that follows. The start after that finds the change
// whole or not at all. Every other change in simple quota mode.
func TestKilledWhileItRecovers(t *testing.T) {
	t.Logf("seed: -cut.seed=%d", *cutSeed)
	const changesEach, startsEach = 2, 2
	for i, op := range operations() {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			r := newTestEnvWith(t, smallPool, []Quota{QuotaFull, QuotaSimple}[i%2])
			before, after, steps := r.learn(op)
			random := rand.New(rand.NewPCG(*cutSeed, uint64(i)))
			for range changesEach {
				k := 1 + random.IntN(len(steps))
				recovery := math.MaxInt // how many steps it takes, once that is known
				for range startsEach {
					r.again(op, before)
					assert.Assert(t, !r.killAt(op, k))
					r.store.abandon()
					j := 1 + random.IntN(min(recovery, 4))
					r.faults.kill(j)
					s, err := Open(t.Context(), r.config(), r.exporter)
					recovery = max(1, len(r.faults.disarm()))
					if err == nil { // what could not be put right is left for later
						s.abandon()
					}
					r.reopen(op, before, after, false, fmt.Sprintf("killed before %s, and before step %d of the start", nth(steps, k), j))
				}
			}
		})
	}
}

// A step of a change fails, and the agent is killed at one of the steps that undo the change. One
// change of each kind is enough.
func TestKilledWhileItUndoes(t *testing.T) {
	kinds := map[string]int{}
	for i, op := range operations() {
		kind, _, _ := strings.Cut(op.name, " ")
		kinds[kind]++
		if kinds[kind] > 1 {
			continue
		}
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			r := newTestEnvWith(t, smallPool, []Quota{QuotaFull, QuotaSimple}[i%2])
			before, after, steps := r.learn(op)
			for k := range steps {
				const most = 20 // steps that undo
				for n := k + 1; n <= k+most; n++ {
					r.again(op, before)
					undoing := r.failAndKill(op, k, n)
					r.reopen(op, before, after, false, fmt.Sprintf("%s failed, killed %d steps later", steps[k], n-k))
					if !undoing {
						break
					}
				}
			}
		})
	}
}

// failAndKill makes step k of the operation fail, and kills the agent at step n. It reports whether
// the operation got as far.
func (r *testEnv) failAndKill(op operation, k, n int) (killed bool) {
	r.t.Helper()
	step := 0
	r.faults.watch(func(name string) {
		switch {
		case step == k:
			r.faults.fail(unix.EIO, name)
		case step >= n:
			r.faults.fail(errKilled, name)
			killed = true
		default:
			r.faults.fail(nil)
		}
		step++
	})
	_ = op.do(r.t.Context(), r.ten)
	r.store.abandon()
	r.faults.watch(nil)
	r.faults.fail(nil)
	return killed
}

func (r *testEnv) killAt(op operation, k int) (acknowledged bool) {
	r.t.Helper()
	r.faults.kill(k)
	err := op.do(r.t.Context(), r.ten)
	if err != nil {
		assert.Assert(r.t, errors.Is(err, errKilled), "%v", err)
	}
	return err == nil
}

func nth(steps []string, k int) string {
	if k > len(steps) {
		return "the next request"
	}
	return steps[k-1]
}

// The power fails at a step of each change: what the agent has not committed is gone, or, if somebody else's commit comes just
// before, is there. A change that was acknowledged is there, also if it was first refused and then acknowledged to a retry.
func TestPowerCut(t *testing.T) {
	t.Logf("seed: -cut.seed=%d", *cutSeed)
	const cutsEach = 2
	forEachOperation(t, func(t *testing.T, number int, op operation, quota Quota) {
		r := newTestEnvWith(t, smallPool, quota)
		before, after, steps := r.learn(op)
		cuts := allCuts(len(steps))
		if !*cutAll {
			random := rand.New(rand.NewPCG(*cutSeed, uint64(number)))
			random.Shuffle(len(cuts), func(a, b int) { cuts[a], cuts[b] = cuts[b], cuts[a] })
			cuts = append(cuts[:cutsEach], cut{step: len(steps) + 1})
		}
		for _, c := range cuts {
			r.cut(op, before, after, steps, c)
		}
	})
}

// cut is a moment for the power to fail.
type cut struct {
	step      int
	committed bool // somebody's commit comes just before
	retried   bool // the step only fails, with the clean-up; the retry is acknowledged, and then the power fails
}

func allCuts(steps int) []cut {
	out := []cut{{step: steps + 1}}
	for k := range steps {
		out = append(out, cut{step: k + 1}, cut{step: k + 1, committed: true}, cut{step: k + 1, retried: true})
	}
	return out
}

func (r *testEnv) cut(op operation, before, after view, steps []string, c cut) {
	r.t.Helper()
	r.again(op, before)
	assert.NilError(r.t, commitNow(r.store))
	var acknowledged bool
	if c.retried {
		r.faults.arm(c.step, math.MaxInt, unix.EIO)
		_ = op.do(r.t.Context(), r.ten) // TestEveryStepFails looks at the answer
		r.faults.disarm()
		acknowledged = op.do(r.t.Context(), r.ten) == nil
		assert.Assert(r.t, acknowledged)
	} else {
		acknowledged = r.killAt(op, c.step)
	}
	if c.committed {
		assert.NilError(r.t, commitNow(r.store))
	}
	r.store.abandon()
	r.faults.disarm()
	r.pool.PowerCut()
	clear(r.exporter.exports) // the NFS server is new too
	r.reopen(op, before, after, acknowledged, "power cut before "+nth(steps, c.step))
}
