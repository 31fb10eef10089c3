//go:build crash

package crash_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/guest"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/uml"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/crash"
)

var (
	cuts       = flag.Int("cuts", 3, "how many times TestPowerCuts cuts the power")
	clientCuts = flag.Int("client-cuts", 2, "how many times TestPowerCutsOfClients cuts the power")
	kills      = flag.Int("kills", 20, "how many times TestAgentKills ends the agent")
	seed       = flag.Uint64("seed", 0, "what the requests and the moments of crashes are made from; 0 for one by chance")
)

const (
	// The power fails when the journal has grown by up to this many bytes: some hundred requests. In
	// one case of five, it fails so early after the start that the agent is still recovering.
	loadMost = 100 << 10
	// For clients alone: some hundred changes, in some seconds.
	clientsMost = 60 << 10
	startMost   = 3 * time.Second

	roundTime = 10 * time.Minute // for a boot, a recovery and a recording on a busy machine
	killTime  = 30 * time.Second // for one kill and the recovery from it
)

// testEnv holds the files and the state that outlive the guests. It is kept when the test fails.
type testEnv struct {
	t    *testing.T
	dir  string
	seed uint64
}

func newTestEnv(t *testing.T) *testEnv {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("booting a guest takes root")
	}
	env := &testEnv{t: t, seed: *seed}
	if env.seed == 0 {
		env.seed = rand.Uint64()
	}
	t.Logf("replay with: -run '^%s$' -seed %d", t.Name(), env.seed)
	env.makeDir()
	return env
}

// another returns a testEnv with the same seed, and separate files until t ends.
func (env *testEnv) another(t *testing.T) *testEnv {
	t.Helper()
	next := &testEnv{t: t, seed: env.seed}
	next.makeDir()
	return next
}

func (env *testEnv) makeDir() {
	env.t.Helper()
	var err error
	env.dir, err = os.MkdirTemp("", "crash-")
	assert.NilError(env.t, err)
	assert.NilError(env.t, crash.SparseFile(env.disk(), crash.DiskBytes))
	env.t.Cleanup(func() {
		if env.t.Failed() {
			env.t.Logf("disk, journal and the agent's log are kept in %s", env.dir)
			return
		}
		assert.Check(env.t, os.RemoveAll(env.dir))
	})
}

func (env *testEnv) disk() string { return filepath.Join(env.dir, crash.DiskFile) }

func (env *testEnv) journalBytes() int64 {
	info, err := os.Stat(filepath.Join(env.dir, "journal"))
	if err != nil {
		return 0
	}
	return info.Size()
}

// round is one guest, from boot to the power cut.
type round struct {
	env     *testEnv
	guest   *guest.Session
	cut     func() error
	console func(int) string
	program *guest.Cmd
	loading chan struct{} // closed when changes begin
	ended   chan error
}

func (env *testEnv) boot(c crash.Config) *round {
	env.t.Helper()
	ctx, cancel := context.WithTimeout(env.t.Context(), roundTime)
	defer cancel()
	disks := []string{env.disk()}
	if c.Record != nil {
		log := filepath.Join(env.dir, crash.LogFile)
		assert.NilError(env.t, crash.SparseFile(log, crash.LogBytes))
		disks = append(disks, log)
	}
	self, err := os.Executable()
	assert.NilError(env.t, err)
	visible := []string{env.dir, os.Getenv("BNC_BIN"), self} // the paths may be in any directory
	g, err := uml.Boot(ctx, uml.Config{Name: "storage", Disks: disks, Visible: visible})
	assert.NilError(env.t, err)
	out := &round{env: env, guest: g.Session, cut: g.PowerCut, console: g.ConsoleTail, loading: make(chan struct{}), ended: make(chan error, 1)}
	env.t.Cleanup(func() { assert.Check(env.t, g.PowerCut()) })

	c.Dir, c.Bin = env.dir, os.Getenv("BNC_BIN")
	config, err := json.Marshal(c)
	assert.NilError(env.t, err)
	out.program = g.Command(self)
	out.program.Env = append(uml.DefaultEnv(), crash.ConfigVariable+"="+string(config))
	read, write := io.Pipe()
	out.program.Stdout, out.program.Stderr = write, write
	assert.NilError(env.t, out.program.Start())
	go func() {
		err := out.program.Wait()
		_ = write.Close() // never fails
		out.ended <- err
	}()
	go out.listen(read)
	return out
}

// listen handles the output of the program.
func (o *round) listen(read io.Reader) {
	lines := bufio.NewScanner(read)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		if lines.Text() == crash.Loading {
			close(o.loading)
			continue
		}
		fmt.Println("    guest:", lines.Text()) // not t.Log: the test may be over
	}
	_, _ = io.Copy(io.Discard, read)
}

// failed handles a program that ended without a power cut.
func (o *round) failed(err error) {
	o.env.t.Helper()
	o.env.t.Fatalf("the program in the guest ended: %v\n%s", err, o.console(20))
}

func (o *round) awaitLoading() {
	o.env.t.Helper()
	select {
	case <-o.loading:
	case err := <-o.ended:
		o.failed(err)
	case <-time.After(roundTime):
		o.env.t.Fatalf("no recovery within %v\n%s", roundTime, o.console(20))
	}
}

// awaitJournal returns when the journal has grown by this many bytes.
func (o *round) awaitJournal(grown int64) {
	o.env.t.Helper()
	until := o.env.journalBytes() + grown
	poll.WaitOn(o.env.t, func(poll.LogT) poll.Result {
		select {
		case err := <-o.ended:
			return poll.Error(fmt.Errorf("the program in the guest ended: %w\n%s", err, o.console(20)))
		default:
		}
		if o.env.journalBytes() < until {
			return poll.Continue("%d bytes of requests and answers to come", until-o.env.journalBytes())
		}
		return poll.Success()
	}, poll.WithDelay(time.Millisecond), poll.WithTimeout(roundTime))
}

func (o *round) powerCut() {
	o.env.t.Helper()
	assert.NilError(o.env.t, o.cut())
	select {
	case err := <-o.ended:
		if !errors.Is(err, guest.ErrGone) {
			o.failed(err)
		}
	case <-time.After(roundTime):
		o.env.t.Fatalf("the program in the guest outlives the guest by %v", roundTime)
	}
}

// last boots once more, and checks more thoroughly.
func (env *testEnv) last(c crash.Config) {
	env.t.Helper()
	c.CheckAfter = true
	env.finish(c)
}

// finish boots a guest and waits until the program has exited without an error.
func (env *testEnv) finish(c crash.Config) {
	env.t.Helper()
	last := env.boot(c)
	select {
	case err := <-last.ended:
		if err != nil {
			last.failed(err)
		}
	case <-time.After(roundTime):
		env.t.Fatalf("no recovery within %v\n%s", roundTime, last.console(20))
	}
	assert.NilError(env.t, last.cut())
}

var engines, quotas = []string{"exportfs", "kernel"}, []string{"full", "simple"}

// share returns the i-th of n nearly equal shares. The first ones are larger.
func share(all, n, i int) int { return (all + n - 1 - i) / n }

// The power fails repeatedly, during changes or during the recovery from the previous cut. Each
// time the agent recovers all acknowledged changes completely, and nothing more. A disk has one
// quota mode, and is used with both engines.
func TestPowerCuts(t *testing.T) {
	for i, quota := range quotas {
		t.Run(quota, func(t *testing.T) {
			times := share(*cuts, len(quotas), i)
			if times == 0 {
				t.Skip("one cut is for full quotas alone")
			}
			cutPower(t, crash.Config{Quota: quota}, times, i)
		})
	}
}

// The power fails while only clients make changes and only the agent commits them. Each time, all
// changes that were acknowledged before a commit are there. For later changes, each name has one of
// its earlier states.
func TestPowerCutsOfClients(t *testing.T) {
	for i, quota := range quotas {
		t.Run(quota, func(t *testing.T) {
			times := share(*clientCuts, len(quotas), i)
			if times == 0 {
				t.Skip("one cut is for full quotas alone")
			}
			cutPower(t, crash.Config{Quota: quota, Clients: true}, times, i)
		})
	}
}

func cutPower(t *testing.T, base crash.Config, times, number int) {
	env := newTestEnv(t)
	random := rand.New(rand.NewPCG(env.seed, uint64(number)))
	most := int64(loadMost)
	if base.Clients {
		most = clientsMost
	}
	for i := range times {
		c := base
		c.Engine, c.Seed, c.LoseExports = engines[(number+i)%2], random.Uint64(), random.IntN(2) == 0
		c.CheckFirst, c.CheckAfter = i > 0 && random.IntN(3) == 0, random.IntN(3) > 0
		early, grown := i > 0 && random.IntN(5) == 0, random.Int64N(most)
		moment := time.Duration(random.Int64N(int64(startMost)))
		fmt.Printf("  cut %d: %+v\n", i+1, c)
		round := env.boot(c)
		if early {
			fmt.Printf("    the power fails %v after the start of the recovery, or of the changes\n", moment)
			select {
			case <-time.After(moment):
			case err := <-round.ended:
				round.failed(err)
			}
		} else {
			round.awaitLoading()
			round.awaitJournal(grown)
			fmt.Printf("    the power fails after %d bytes of requests and answers\n", grown)
		}
		round.powerCut()
	}
	env.last(crash.Config{Engine: engines[(number+times)%2], Quota: base.Quota, Last: true})
	if base.Quota == "full" { // btrfs-progs before 6.7 do not support simple quotas
		out, err := exec.Command("btrfs", "check", "--readonly", env.disk()).CombinedOutput()
		assert.NilError(t, err, "%s", strings.TrimSpace(string(out)))
	}
	if !base.Clients {
		env.last(crash.Config{Engine: engines[(number+times+1)%2], Quota: base.Quota, ClearOut: true})
	}
}

// The agent is killed or stopped repeatedly during changes. Clients keep working. Each time the
// agent recovers all acknowledged changes completely, and nothing more.
func TestAgentKills(t *testing.T) {
	for i, mode := range []struct{ engine, quota string }{
		{"exportfs", "full"}, {"kernel", "simple"}, {"kernel", "full"}, {"exportfs", "simple"},
	} {
		t.Run(mode.engine+" "+mode.quota, func(t *testing.T) {
			times := share(*kills, 4, i)
			if times == 0 {
				t.Skip("there are fewer kills than modes")
			}
			env := newTestEnv(t)
			round := env.boot(crash.Config{Engine: mode.engine, Quota: mode.quota, Seed: env.seed + uint64(i)*uint64(*kills), Kills: times})
			select {
			case err := <-round.ended:
				if err != nil {
					round.failed(err)
				}
			case <-time.After(roundTime + time.Duration(times)*killTime):
				t.Fatalf("the agent was not killed %d times in time\n%s", times, round.console(20))
			}
			assert.NilError(t, round.cut())
		})
	}
}
