package crash

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/crash/logwrites"
)

// Replay replays a recording and verifies the state after a power cut at some of its points. It
// needs no guest, no device-mapper and no NFS server: the agent's engine is exportfs, and Replay
// also verifies its table. The process needs private mount, network and PID namespaces, see
// Namespaces. Its mounts end with it.
type Replay struct {
	// Lines is the number of lines of the journal before the recording.
	Lines int
	// Points is the number of verified points: half of them exact, half torn.
	Points int
	// Ahead is for the counter-check: the replay also expects the changes that this many more lines
	// acknowledge.
	Ahead int
}

// Result is the result of Replay. It is stored in the file ResultFile.
type Result struct {
	Entries    int // in the log
	All        int // points in the log
	Exact      int // verified points
	Torn       int // verified points with a part of later writes
	Unanswered int // changes without an answer at those points
	Lost       int // names whose last change by a client was not durable
	Problems   int // points with a problem
	Took       time.Duration
}

// Add adds the numbers of another result.
func (r *Result) Add(other Result) {
	r.Entries += other.Entries
	r.All += other.All
	r.Exact += other.Exact
	r.Torn += other.Torn
	r.Unanswered += other.Unanswered
	r.Lost += other.Lost
	r.Problems += other.Problems
	r.Took += other.Took
}

// Files of a recording, in addition to the journal.
const (
	DiskFile   = "disk.img"   // the guest's disk
	LogFile    = "log.img"    // the log of its writes
	BaseFile   = "base.img"   // content of the disk before
	ResultFile = "result"     // JSON
	workFile   = "work.img"   // a filesystem with reflinks
	workDir    = "work"       // mount point of workFile
	poolDir    = "pool"       // mount point of a state
	targetFile = "target.img" // on that filesystem: the present state of the replay
	stateFile  = "state.img"  // on that filesystem: the state to verify
)

// DiskBytes and LogBytes are the sizes of the two disks, which are sparse files.
const (
	DiskBytes = 4 << 30
	LogBytes  = 16 << 30
)

// Namespaces returns a command that starts a program in private namespaces, and ends it when the
// command is killed.
func Namespaces(ctx context.Context, program string) *exec.Cmd {
	return exec.CommandContext(ctx, "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", program)
}

// point is a moment of the power cut.
type point struct {
	entries int // entries on the disk
	torn    uint64
}

// points chooses evenly among the log's points at which the disk holds a pool. It also returns
// their number.
func (c Config) points(l *logwrites.Log) (chosen []point, all int) {
	possible := c.possible(l)
	exact := min((c.Replay.Points+1)/2, len(possible))
	torn := c.Replay.Points - exact
	for i := range exact {
		chosen = append(chosen, point{entries: possible[i*len(possible)/exact]})
	}
	for i := range torn {
		chosen = append(chosen, point{entries: possible[i*len(possible)/torn], torn: uint64(i + 1)})
	}
	slices.SortStableFunc(chosen, func(a, b point) int { return a.entries - b.entries })
	return chosen, len(possible)
}

// possible returns the points from the first line of the journal on. Before that, the pool is being
// created.
func (c Config) possible(l *logwrites.Log) []int {
	return slices.DeleteFunc(l.Points(), func(n int) bool { return c.lines(l, n) == 0 })
}

// lines returns how many lines of the journal were written before the first n entries.
func (c Config) lines(l *logwrites.Log, n int) int {
	lines, err := strconv.Atoi(l.LastMark(n))
	if err != nil { // there is no mark yet
		return c.Replay.Lines
	}
	return lines
}

// replayer is the state of a replay.
type replayer struct {
	config  Config
	log     *logwrites.Log
	journal []Entry
	target  *os.File
	done    int // entries applied to the target
	result  Result
}

func (c Config) replay() (err error) {
	r := &replayer{config: c}
	if r.log, err = logwrites.Open(c.path(LogFile)); err != nil {
		return err
	}
	defer r.log.Close()
	if r.journal, err = ReadJournal(c.path("journal")); err != nil {
		return err
	}
	if err := errors.Join(ownState(), r.makeTarget()); err != nil {
		return err
	}
	defer r.target.Close()

	began := time.Now()
	points, all := c.points(r.log)
	for _, p := range points {
		if err := r.point(p); err != nil {
			return err
		}
	}
	r.result.Entries, r.result.All, r.result.Took = len(r.log.Entries), all, time.Since(began)
	result, err := json.Marshal(r.result)
	if err != nil {
		return err
	}
	return os.WriteFile(c.path(ResultFile), result, 0o600)
}

// ownState creates the files in the namespaces that the agent and exportfs need.
func ownState() error {
	commands := [][]string{{"ip", "link", "set", "lo", "up"}}
	for _, dir := range []string{"/var/lib/nfs", "/etc/exports.d"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		commands = append(commands, []string{"mount", "-t", "tmpfs", "-o", "mode=755", "replay", dir})
	}
	for _, command := range commands {
		if err := runHere(command...); err != nil {
			return err
		}
	}
	return nil
}

func runHere(command ...string) error {
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// makeTarget creates a filesystem with reflinks, so that a copy of a state is immediate. It ends
// with the process, and so need not survive a power cut.
func (r *replayer) makeTarget() error {
	c := r.config
	work := c.path(workFile)
	err := errors.Join(SparseFile(work, 2*DiskBytes), os.MkdirAll(c.path(workDir), 0o700), os.MkdirAll(c.path(poolDir), 0o700))
	if err != nil {
		return err
	}
	if err := runHere("mkfs.btrfs", "-q", "-f", work); err != nil {
		return err
	}
	err = runHere("mount", "-t", "btrfs", "-o", "loop,nobarrier,noatime,nodatasum", work, c.path(workDir))
	if err = errors.Join(err, os.Remove(work)); err != nil { // the loop device holds it
		return err
	}
	target := filepath.Join(c.path(workDir), targetFile)
	if err := copySparse(c.path(BaseFile), target); err != nil {
		return err
	}
	r.target, err = os.OpenFile(target, os.O_RDWR, 0)
	return err
}

func copySparse(from, to string) error { return runHere("cp", "--sparse=always", from, to) }

// SparseFile creates a file of zeros.
func SparseFile(path string, size int64) error {
	return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size))
}

// point verifies one point. It returns an error if that is not possible.
func (r *replayer) point(p point) error {
	if err := r.log.Apply(r.target, r.done, p.entries); err != nil {
		return err
	}
	r.done = p.entries
	state := filepath.Join(r.config.path(workDir), stateFile)
	moment, err := r.copyState(state, p)
	if err != nil {
		return err
	}

	lines := min(r.config.lines(r.log, moment)+r.config.Replay.Ahead, len(r.journal))
	w := NewWorld(r.journal[:lines])
	r.result.Unanswered += len(w.open)
	if p.torn == 0 {
		r.result.Exact++
	} else {
		r.result.Torn++
	}
	if err := r.verify(state, w); err != nil {
		r.result.Problems++
		if r.config.Replay.Ahead > 0 {
			return nil // intended
		}
		fmt.Printf("PROBLEM after %d of %d entries, torn with %d, line %d of the journal: %v\n", p.entries, len(r.log.Entries), p.torn, lines, err)
	}
	return nil
}

// copyState creates the state of the disk, and returns the number of entries whose marks are
// complete.
func (r *replayer) copyState(path string, p point) (moment int, err error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	state, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return 0, err
	}
	defer state.Close()
	if err := unix.IoctlFileClone(int(state.Fd()), int(r.target.Fd())); err != nil {
		return 0, fmt.Errorf("clone the state: %w", err)
	}
	if p.torn == 0 {
		return p.entries, nil
	}
	return r.log.Tear(state, p.entries, rand.New(rand.NewPCG(r.config.Seed+p.torn, uint64(p.entries))))
}

// verify starts the pool as after a power cut.
func (r *replayer) verify(state string, w *World) (err error) {
	pool := r.config.path(poolDir)
	if err := runHere("mount", "-t", "btrfs", "-o", "loop", state, pool); err != nil {
		return err
	}
	err = errors.Join(r.verifyPool(pool, w), unmount(pool))
	if err == nil && r.config.Quota == "full" { // btrfs-progs before 6.7 do not support simple quotas
		err = runHere("btrfs", "check", "--readonly", state)
	}
	return err
}

func (r *replayer) verifyPool(pool string, w *World) (err error) {
	number := r.result.Exact + r.result.Torn
	m := &machine{config: r.config, lab: &lab.Lab{Pool: pool}, quick: number%triedEach != 0}
	m.config.CheckFirst = number%repairedEach == 0
	if m.log, err = os.OpenFile(r.config.path("agent-replay.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		return err
	}
	defer m.log.Close()
	if m.api, err = agentclient.New("http://127.0.0.1:8080", agentclient.Options{Token: token, Timeout: callTime}); err != nil {
		return err
	}
	if err := os.WriteFile("/var/lib/nfs/etab", nil, 0o600); err != nil { // a restart empties it
		return err
	}
	if err := m.checkInterrupted(); err != nil {
		return err
	}
	if err := m.bringBack(); err != nil {
		return err
	}
	_, lost, err := m.verify(w)
	r.result.Lost += lost
	if err = errors.Join(err, m.endAgent(syscall.SIGTERM)); err != nil {
		return err
	}
	return m.check(false)
}

// Format creates an empty filesystem in dir, for a recording of its changes. A guest does not
// create it, because mkfs.btrfs discards the whole disk, which would be most of the log.
func Format(dir string) error {
	base := filepath.Join(dir, BaseFile)
	if err := SparseFile(base, DiskBytes); err != nil {
		return err
	}
	return errors.Join(runHere("mkfs.btrfs", "-q", base), copySparse(base, filepath.Join(dir, DiskFile)))
}

// Interrupt cuts the power at a random moment of the recording in directory from. It creates the
// remaining disk and journal in directory to, for another recording, and returns the number of
// lines of the journal.
func Interrupt(from, to string, random *rand.Rand) (lines int, err error) {
	c := Config{Dir: from, Replay: &Replay{}}
	l, err := logwrites.Open(c.path(LogFile))
	if err != nil {
		return 0, err
	}
	defer l.Close()
	base, disk := filepath.Join(to, BaseFile), filepath.Join(to, DiskFile)
	if err := copySparse(c.path(BaseFile), base); err != nil {
		return 0, err
	}
	file, err := os.OpenFile(base, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer file.Close()

	possible := c.possible(l)
	n := possible[random.IntN(len(possible))]
	if err := l.Apply(file, 0, n); err != nil {
		return 0, err
	}
	moment, err := l.Tear(file, n, random)
	if err != nil {
		return 0, err
	}
	lines = c.lines(l, moment)
	return lines, errors.Join(copySparse(base, disk), copyJournal(c.path("journal"), filepath.Join(to, "journal"), lines))
}

// copyJournal copies this many lines.
func copyJournal(from, to string, lines int) error {
	entries, err := ReadJournal(from)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	for _, e := range entries[:lines] {
		if err := encoder.Encode(e); err != nil {
			return err
		}
	}
	return os.WriteFile(to, out.Bytes(), 0o600)
}

// The replay reads limits at each point and tests them at one of triedEach. Before the kernel
// answers EDQUOT, it writes all data and commits (try_flush_qgroup in fs/btrfs/qgroup.c), which
// took a quarter of the time. check --repair repairs one point of repairedEach before the agent
// starts.
const triedEach, repairedEach = 5, 4

// unmountTime limits the wait for the agent's last command.
const unmountTime = time.Minute

func unmount(dir string) error {
	for deadline := time.Now().Add(unmountTime); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Unmount(dir, 0)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return err
		}
	}
}
