//go:build crash

package crash_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/setup"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/uml"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/crash"
)

var (
	points = flag.Int("points", 24, "at how many points TestReplay cuts the power, in all cells together")
	cells  = flag.Int("cells", 2, "how many of its sixteen cells TestReplay has")
)

const (
	// A recording has one line of the journal (a request, an answer, a fsynced file) for each verified
	// point, within these limits.
	leastLines, mostLines = 100, 1000
	// aheadLines and aheadPoints are those of the counter-check.
	aheadLines, aheadPoints = 60, 6
	recordedRecoveries      = 12 // in one cell
	replayTime              = time.Hour
)

// Kinds of cells.
const (
	plainDisk       = "plain"
	slowDisk        = "slow disk" // dm-delay
	crashInRecovery = "crash in recovery"
	clientsAlone    = "clients alone" // only the agent commits their changes
)

// mode is the common part of the cells of one recording.
type mode struct{ engine, quota string }

// -cells takes the cells in this order: all modes of the first kind, then of the next.
var (
	modes = []mode{{"exportfs", "full"}, {"kernel", "simple"}, {"kernel", "full"}, {"exportfs", "simple"}}
	kinds = []string{plainDisk, slowDisk, crashInRecovery, clientsAlone}
)

// table collects the results of the cells.
type table struct {
	mu   sync.Mutex
	rows map[string]crash.Result
}

func (t *table) add(m mode, kind string, r crash.Result) {
	t.mu.Lock()
	defer t.mu.Unlock()
	name := m.engine + "\t" + m.quota + "\t" + kind
	t.rows[name] = r
	fmt.Printf("  %s %s, %s: %d points, %d with problems, in %v\n", m.engine, m.quota, kind, r.Exact+r.Torn, r.Problems, r.Took.Round(time.Second))
}

func (t *table) print() {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "engine\tquotas\trecording\twrites, flushes and marks\tof them points\texact\ttorn\tunanswered changes\tchanges of clients lost\tproblems\tms a point")
	var all crash.Result
	for _, kind := range kinds {
		for _, m := range modes {
			name := m.engine + "\t" + m.quota + "\t" + kind
			r, found := t.rows[name]
			if !found {
				continue
			}
			each := r.Took.Milliseconds() / int64(max(1, r.Exact+r.Torn))
			fmt.Fprintf(out, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n", name, r.Entries, r.All, r.Exact, r.Torn, r.Unanswered, r.Lost, r.Problems, each)
			all.Add(r)
		}
	}
	fmt.Fprintf(out, "all\t\t\t\t\t%d\t%d\t\t\t%d\n", all.Exact, all.Torn, all.Problems)
	_ = out.Flush() // to standard output
}

// A guest records all writes to its disk. The host computes possible states after a power cut: the
// exact state at a flush, a FUA write or a mark, or a torn one, with a part of later writes. From
// each, the agent recovers all acknowledged changes completely, and nothing more.
func TestReplay(t *testing.T) {
	requireModule(t, "dm-log-writes")
	results := &table{rows: map[string]crash.Result{}}
	t.Cleanup(results.print)
	for i, m := range modes {
		if i >= *cells {
			break
		}
		t.Run(m.engine+" "+m.quota, func(t *testing.T) {
			t.Parallel()
			_ = exec.Command("modprobe", "btrfs").Run() // it may be built in or loaded
			if _, err := os.Stat("/sys/fs/btrfs/features/simple_quota"); err != nil && m.quota == "simple" {
				t.Skip("this machine's kernel has no simple quotas (it is older than 6.7)")
			}
			replayMode(t, m, i, results)
		})
	}
}

// requireModule skips the test on kernels without the module.
func requireModule(t *testing.T, name string) {
	t.Helper()
	options, err := setup.FromEnv()
	assert.NilError(t, err)
	kernel, err := uml.Prepare(t.Context(), options)
	assert.NilError(t, err)
	if len(kernel.Separate([]string{name})) == 0 {
		t.Skipf("Linux %s has no module %s", kernel.Version, name)
	}
}

// replayMode runs the cells i, i+4, i+8 and i+12.
func replayMode(t *testing.T, m mode, i int, results *table) {
	plain := newTestEnv(t)
	random := rand.New(rand.NewPCG(plain.seed, uint64(i)))
	for k, kind := range kinds {
		number := i + k*len(modes)
		if number >= *cells {
			return
		}
		c := crash.Config{Engine: m.engine, Quota: m.quota, Seed: random.Uint64()}
		points := share(*points, *cells, number)
		switch kind {
		case plainDisk:
			results.add(m, kind, plain.changes(c, false, points))
			plain.acknowledgeAhead(c)
		case slowDisk, clientsAlone:
			t.Run(kind, func(t *testing.T) {
				c.Clients = kind == clientsAlone
				results.add(m, kind, plain.another(t).changes(c, kind == slowDisk, points))
			})
		case crashInRecovery:
			results.add(m, kind, plain.recoveries(c, points))
		}
	}
}

// changes records changes, and cuts the power during them.
func (env *testEnv) changes(c crash.Config, slow bool, points int) crash.Result {
	env.t.Helper()
	assert.NilError(env.t, crash.Format(env.dir))
	c.Record = &crash.Recording{Lines: max(leastLines, min(points, mostLines)), Delay: slow}
	env.finish(c)
	return env.replay(c, crash.Replay{Points: points})
}

// acknowledgeAhead is the counter-check: the replay must detect an agent that acknowledges changes
// before they are on disk.
func (env *testEnv) acknowledgeAhead(c crash.Config) {
	env.t.Helper()
	result := env.replay(c, crash.Replay{Points: aheadPoints, Ahead: aheadLines})
	assert.Assert(env.t, result.Problems > 0, "%d lines of the journal too many, and the replay misses nothing", aheadLines)
}

// recoveries records the recovery from some power cuts of this recording, and cuts the power during
// the recovery.
func (env *testEnv) recoveries(c crash.Config, points int) (sum crash.Result) {
	env.t.Helper()
	random := rand.New(rand.NewPCG(c.Seed, 0))
	c.Record = &crash.Recording{} // of the recovery alone
	number := min(recordedRecoveries, points)
	for i := range number {
		c.Seed, c.CheckFirst = random.Uint64(), i%3 == 2
		env.t.Run(fmt.Sprintf("recovery %d", i), func(t *testing.T) {
			next := env.another(t)
			lines, err := crash.Interrupt(env.dir, next.dir, random)
			assert.NilError(t, err)
			next.finish(c)
			sum.Add(next.replay(c, crash.Replay{Lines: lines, Points: share(points, number, i)}))
		})
	}
	return sum
}

// replay runs the replay in another process, whose mounts end with it.
func (env *testEnv) replay(c crash.Config, replay crash.Replay) (result crash.Result) {
	env.t.Helper()
	self, err := os.Executable()
	assert.NilError(env.t, err)
	c.Dir, c.Bin, c.Engine, c.Record, c.Replay = env.dir, os.Getenv("BNC_BIN"), "exportfs", nil, &replay
	config, err := json.Marshal(c)
	assert.NilError(env.t, err)
	ctx, cancel := context.WithTimeout(env.t.Context(), replayTime)
	defer cancel()

	cmd := crash.Namespaces(ctx, self)
	cmd.Env = append(os.Environ(), crash.ConfigVariable+"="+string(config))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	// The parent-death signal is tied to the thread (PR_SET_PDEATHSIG(2const)).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	assert.NilError(env.t, cmd.Run(), "replay of %s", env.dir)

	content, err := os.ReadFile(filepath.Join(env.dir, crash.ResultFile))
	assert.NilError(env.t, err)
	assert.NilError(env.t, json.Unmarshal(content, &result))
	if replay.Ahead == 0 {
		assert.Check(env.t, result.Problems == 0, "%d of %d points have a problem; replay again, after go test -c -tags crash ./test/crash, with: %s='%s' %s ./crash.test",
			result.Problems, result.Exact+result.Torn, crash.ConfigVariable, config, strings.Join(cmd.Args[:len(cmd.Args)-1], " "))
	}
	return result
}
