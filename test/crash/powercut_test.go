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

// rig holds the files and the state that outlive the guests. It is kept when the test fails.
type rig struct {
	t    *testing.T
	dir  string
	seed uint64
}

func newRig(t *testing.T) *rig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("booting a guest takes root")
	}
	r := &rig{t: t, seed: *seed}
	if r.seed == 0 {
		r.seed = rand.Uint64()
	}
	t.Logf("replay with: -run '^%s$' -seed %d", t.Name(), r.seed)
	r.makeDir()
	return r
}

// another returns a rig with the same seed, and separate files until t ends.
func (r *rig) another(t *testing.T) *rig {
	t.Helper()
	next := &rig{t: t, seed: r.seed}
	next.makeDir()
	return next
}

func (r *rig) makeDir() {
	r.t.Helper()
	var err error
	r.dir, err = os.MkdirTemp("", "crash-")
	assert.NilError(r.t, err)
	assert.NilError(r.t, crash.SparseFile(r.disk(), crash.DiskBytes))
	r.t.Cleanup(func() {
		if r.t.Failed() {
			r.t.Logf("disk, journal and the agent's log are kept in %s", r.dir)
			return
		}
		assert.Check(r.t, os.RemoveAll(r.dir))
	})
}

func (r *rig) disk() string { return filepath.Join(r.dir, crash.DiskFile) }

func (r *rig) journalBytes() int64 {
	info, err := os.Stat(filepath.Join(r.dir, "journal"))
	if err != nil {
		return 0
	}
	return info.Size()
}

// round is one guest, from boot to the power cut.
type round struct {
	rig     *rig
	guest   *guest.Session
	cut     func() error
	console func(int) string
	program *guest.Cmd
	loading chan struct{} // closed when changes begin
	ended   chan error
}

func (r *rig) boot(c crash.Config) *round {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), roundTime)
	defer cancel()
	disks := []string{r.disk()}
	if c.Record != nil {
		log := filepath.Join(r.dir, crash.LogFile)
		assert.NilError(r.t, crash.SparseFile(log, crash.LogBytes))
		disks = append(disks, log)
	}
	self, err := os.Executable()
	assert.NilError(r.t, err)
	visible := []string{r.dir, os.Getenv("BNC_BIN"), self} // the paths may be in any directory
	g, err := uml.Boot(ctx, uml.Config{Name: "storage", Disks: disks, Visible: visible})
	assert.NilError(r.t, err)
	out := &round{rig: r, guest: g.Session, cut: g.PowerCut, console: g.ConsoleTail, loading: make(chan struct{}), ended: make(chan error, 1)}
	r.t.Cleanup(func() { assert.Check(r.t, g.PowerCut()) })

	c.Dir, c.Bin = r.dir, os.Getenv("BNC_BIN")
	config, err := json.Marshal(c)
	assert.NilError(r.t, err)
	out.program = g.Command(self)
	out.program.Env = append(uml.DefaultEnv(), crash.ConfigVariable+"="+string(config))
	read, write := io.Pipe()
	out.program.Stdout, out.program.Stderr = write, write
	assert.NilError(r.t, out.program.Start())
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
	o.rig.t.Helper()
	o.rig.t.Fatalf("the program in the guest ended: %v\n%s", err, o.console(20))
}

func (o *round) awaitLoading() {
	o.rig.t.Helper()
	select {
	case <-o.loading:
	case err := <-o.ended:
		o.failed(err)
	case <-time.After(roundTime):
		o.rig.t.Fatalf("no recovery within %v\n%s", roundTime, o.console(20))
	}
}

// awaitJournal returns when the journal has grown by this many bytes.
func (o *round) awaitJournal(grown int64) {
	o.rig.t.Helper()
	until := o.rig.journalBytes() + grown
	poll.WaitOn(o.rig.t, func(poll.LogT) poll.Result {
		select {
		case err := <-o.ended:
			return poll.Error(fmt.Errorf("the program in the guest ended: %w\n%s", err, o.console(20)))
		default:
		}
		if o.rig.journalBytes() < until {
			return poll.Continue("%d bytes of requests and answers to come", until-o.rig.journalBytes())
		}
		return poll.Success()
	}, poll.WithDelay(time.Millisecond), poll.WithTimeout(roundTime))
}

func (o *round) powerCut() {
	o.rig.t.Helper()
	assert.NilError(o.rig.t, o.cut())
	select {
	case err := <-o.ended:
		if !errors.Is(err, guest.ErrGone) {
			o.failed(err)
		}
	case <-time.After(roundTime):
		o.rig.t.Fatalf("the program in the guest outlives the guest by %v", roundTime)
	}
}

// last boots once more, and checks more thoroughly.
func (r *rig) last(c crash.Config) {
	r.t.Helper()
	c.CheckAfter = true
	r.finish(c)
}

// finish boots a guest and waits until the program has exited without an error.
func (r *rig) finish(c crash.Config) {
	r.t.Helper()
	last := r.boot(c)
	select {
	case err := <-last.ended:
		if err != nil {
			last.failed(err)
		}
	case <-time.After(roundTime):
		r.t.Fatalf("no recovery within %v\n%s", roundTime, last.console(20))
	}
	assert.NilError(r.t, last.cut())
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
	r := newRig(t)
	random := rand.New(rand.NewPCG(r.seed, uint64(number)))
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
		round := r.boot(c)
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
	r.last(crash.Config{Engine: engines[(number+times)%2], Quota: base.Quota, Last: true})
	if base.Quota == "full" { // btrfs-progs before 6.7 do not support simple quotas
		out, err := exec.Command("btrfs", "check", "--readonly", r.disk()).CombinedOutput()
		assert.NilError(t, err, "%s", strings.TrimSpace(string(out)))
	}
	if !base.Clients {
		r.last(crash.Config{Engine: engines[(number+times+1)%2], Quota: base.Quota, ClearOut: true})
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
			r := newRig(t)
			round := r.boot(crash.Config{Engine: mode.engine, Quota: mode.quota, Seed: r.seed + uint64(i)*uint64(*kills), Kills: times})
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
