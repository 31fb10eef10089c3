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

// smallPool is large enough for operations, and quick to copy.
var smallPool = testpool.Options{SizeBytes: 512 << 20}

// reopen starts the agent again after the operation was its last change.
func (r *testEnv) reopen(op operation, before, after view, acknowledged bool, what string) {
	t := r.t
	t.Helper()
	r.open()
	have := r.view()
	switch {
	case acknowledged && !slices.Equal(have, after):
		t.Errorf("%s: there is\n%q, want\n%q", what, have, after)
	case strings.HasPrefix(op.name, "unexport"): // some of several references may be gone
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

// The agent is killed at each step of each change. After the next start the change is complete or
// absent, and all other state is unchanged.
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

// forEachOperation runs a test of every change in both quota modes. number counts the runs.
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

// The agent is killed at a step of a change, and again at a step of the following start. After the
// start after that, the change is complete or absent. In simple quota mode the test uses every
// other change.
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
				recovery := math.MaxInt // number of its steps, once known
				for range startsEach {
					r.again(op, before)
					assert.Assert(t, !r.killAt(op, k))
					r.store.abandon()
					j := 1 + random.IntN(min(recovery, 4))
					r.faults.kill(j)
					s, err := Open(t.Context(), r.config(), r.exporter)
					recovery = max(1, len(r.faults.disarm()))
					if err == nil { // what could not be repaired is left for later
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
				const most = 20 // steps of the undo
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
// the operation reached step n.
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

// The power fails at a step of each change. Uncommitted state is gone, unless another program
// committed just before. An acknowledged change is there, even if it was refused first and a retry
// was acknowledged.
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

// cut is the moment of a power failure.
type cut struct {
	step      int
	committed bool // another program commits just before
	retried   bool // the step and the clean-up fail; the power fails after the acknowledgment of the retry
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
		_ = op.do(r.t.Context(), r.ten) // TestEveryStepFails checks the result
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
	clear(r.exporter.exports) // the NFS server restarts too
	r.reopen(op, before, after, acknowledged, "power cut before "+nth(steps, c.step))
}
