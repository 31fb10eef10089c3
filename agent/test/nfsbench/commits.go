package nfsbench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/kernel"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/pool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// commitMode selects who commits while clients write.
type commitMode struct {
	name     string
	interval time.Duration // commit interval of the agent, 0 means none
	mount    string        // mount option commit=, in seconds
}

// commitModes alternate. The others are compared with the first.
var commitModes = []commitMode{
	{"none by the agent", 0, "30"}, // the kernel's default
	{"1 s", time.Second, "30"},
	{"2 s", 2 * time.Second, "30"},
	{"`commit=1`", 0, "1"},
}

// CommitRow holds the results of small files in one kind of pool.
type CommitRow struct {
	Pool    string
	Files   [][]float64 // files created per second in each turn, by commit mode
	Commits []float64   // fraction of the time with a commit in progress, by commit mode
}

// CommitReport formats the results of RunCommits as Markdown. A cost is a median over the rounds.
// It is the fraction of files that a turn created less than the turn of the same round in which the
// agent did not commit. After the cost comes the fraction of the time with a commit in progress.
func CommitReport(rows []CommitRow) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Measured on %s in a machine of the lab with Linux %s and one processor.\n\n| pool |", time.Now().UTC().Format(time.DateOnly), kernelRelease())
	for i, mode := range commitModes {
		if i > 0 {
			fmt.Fprintf(&b, " %s |", mode.name)
		}
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(commitModes)-1) + "\n")
	for _, row := range rows {
		fmt.Fprintf(&b, "| %s |", row.Pool)
		for mode, files := range row.Files[1:] {
			fmt.Fprintf(&b, " %+.1f %%, %.1f %% |", 100*cost(files, row.Files[0]), 100*row.Commits[mode+1])
		}
		b.WriteString("\n")
	}
	return b.String()
}

// cost returns the fraction of files that were not created, as the median of the rounds.
func cost(files, without []float64) float64 {
	var ratios []float64
	for round := range files {
		ratios = append(ratios, files[round]/max(1, without[round]))
	}
	slices.Sort(ratios)
	middle := len(ratios) / 2
	if len(ratios)%2 == 1 {
		return 1 - ratios[middle]
	}
	return 1 - (ratios[middle-1]+ratios[middle])/2
}

// commitScene is a kind of pool.
type commitScene struct {
	name      string
	quota     storage.Quota
	snapshots int
}

// RunCommits measures small files over NFS while the agent commits, while the kernel commits, and
// while neither does.
func RunCommits(ctx context.Context, options Options) (rows []CommitRow, err error) {
	env, err := newTestEnv()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, env.close()) }()
	r := &run{testEnv: env, options: options, engineName: kernel.Name}
	if r.engine, err = r.newEngine(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.engine.Close()) }()
	if err := r.engine.Start(ctx, nil); err != nil {
		return nil, err
	}
	scenes := []commitScene{{"without quotas", storage.QuotaOff, 0}, {"full quotas, 200 snapshots", storage.QuotaFull, 200}}
	if options.Quick {
		scenes = []commitScene{{"full quotas, 2 snapshots", storage.QuotaFull, 2}}
	}
	for i, scene := range scenes {
		row, err := r.measureCommits(ctx, scene, filepath.Join(r.base, fmt.Sprint("commits-", i)))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", scene.name, err)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func (r *run) measureCommits(ctx context.Context, scene commitScene, base string) (row CommitRow, err error) {
	if err := os.MkdirAll(base, 0o700); err != nil {
		return row, err
	}
	config := storage.Config{BasePath: base, Tenants: []string{tenant}, Quota: scene.quota, Logger: slog.New(slog.DiscardHandler)}
	if _, _, err := pool.Init(config.Pool()); err != nil {
		return row, err
	}
	err = r.withStore(ctx, config, func(store *storage.Store) error { return r.prepareCommits(ctx, store, scene) })
	if err != nil {
		return row, err
	}
	mounted, unmount, err := r.mountOnNode(ctx)
	if err != nil {
		return row, err
	}
	defer func() { err = errors.Join(err, unmount()) }()

	stop, err := r.startSmallFiles(ctx, mounted)
	if err != nil {
		return row, err
	}
	turns, turnErr := r.takeTurns(ctx, config)
	made, err := stop()
	if err := errors.Join(turnErr, err, r.removeWritten()); err != nil {
		return row, err
	}
	row.Pool, row.Files, row.Commits = scene.name, make([][]float64, len(commitModes)), make([]float64, len(commitModes))
	for _, turn := range turns {
		row.Files[turn.mode] = append(row.Files[turn.mode], turn.rate(made))
		row.Commits[turn.mode] += turn.commits.Seconds() / time.Duration(turn.end-turn.begin).Seconds() * float64(len(commitModes)) / float64(len(turns))
	}
	r.options.Log.Info("measured", "pool", scene.name, "files a second", row.Files, "commits", row.Commits)
	return row, nil
}

// commitTurn is a period with one mode, in nanoseconds of Unix time.
type commitTurn struct {
	mode       int
	begin, end int64
	commits    time.Duration // total time of commits in progress
}

func (t commitTurn) rate(made []int64) float64 {
	n := 0
	for _, at := range made {
		if at >= t.begin && at < t.end {
			n++
		}
	}
	return float64(n) / time.Duration(t.end-t.begin).Seconds()
}

// takeTurns alternates between the modes, so that other load of the machine affects all of them
// equally. The agent runs all the time.
func (r *run) takeTurns(ctx context.Context, config storage.Config) (turns []commitTurn, err error) {
	rounds, length := 30, 3*time.Second
	if r.options.Quick {
		rounds, length = 1, time.Second
	}
	operations := &throttled{}
	config.CommitInterval, config.ClientOperations = time.Second, operations.count
	err = r.withStore(ctx, config, func(*storage.Store) error {
		for round := range rounds {
			for i := range commitModes {
				turn := commitTurn{mode: (i + round) % len(commitModes)} // so that no mode always follows the same one
				mode := commitModes[turn.mode]
				operations.pass(mode.interval)
				if out, err := exec.CommandContext(ctx, "mount", "-o", "remount,commit="+mode.mount, r.base).CombinedOutput(); err != nil {
					return fmt.Errorf("remount: %w: %s", err, out)
				}
				unix.Sync() // the turn must not include the writes of the previous one
				if err := r.turn(ctx, &turn, length); err != nil {
					return err
				}
				turns = append(turns, turn)
			}
		}
		return nil
	})
	return turns, err
}

// throttled forwards changes of the server's counters once per interval, or never.
type throttled struct {
	mu       sync.Mutex
	interval time.Duration // 0 means never
	at       time.Time
	last     uint64
}

func (t *throttled) pass(interval time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.interval = interval
}

func (t *throttled) count() (uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.interval == 0 || time.Since(t.at) < t.interval {
		return t.last, nil
	}
	now, err := nfsd.NewServer("/proc").ChangingOperations()
	t.at, t.last = time.Now(), now
	return now, err
}

// turn waits, and records the time of commits in progress.
func (r *run) turn(ctx context.Context, turn *commitTurn, length time.Duration) error {
	before, err := r.commitTime()
	if err != nil {
		return err
	}
	turn.begin = time.Now().UnixNano()
	if err := pause(ctx, length); err != nil {
		return err
	}
	turn.end = time.Now().UnixNano()
	after, err := r.commitTime()
	turn.commits = after - before
	return err
}

// commitTime returns the total time of all commits of the pool (commit_stats in fs/btrfs/sysfs.c).
func (r *run) commitTime() (time.Duration, error) {
	pool, err := btrfs.Open(r.base)
	if err != nil {
		return 0, err
	}
	defer pool.Close()
	content, err := os.ReadFile(filepath.Join("/sys/fs/btrfs", pool.FSID().String(), "commit_stats"))
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(content), "total_commit_ms")
	milliseconds, err := strconv.Atoi(strings.TrimSpace(after))
	return time.Duration(milliseconds) * time.Millisecond, err
}

func pause(ctx context.Context, length time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(length):
		return nil
	}
}

func (r *run) withStore(ctx context.Context, config storage.Config, do func(*storage.Store) error) error {
	store, err := storage.Open(ctx, config, &crowded{Exporter: r.engine, own: config.BasePath})
	if err != nil {
		return err
	}
	err = do(store)
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	return errors.Join(err, store.Close(ending))
}

// prepareCommits creates a volume with some files, and snapshots that share most of them.
func (r *run) prepareCommits(ctx context.Context, store *storage.Store, scene commitScene) error {
	const files, changed = 2000, 20
	team, err := store.Tenant(tenant)
	if err != nil {
		return err
	}
	volume, _, err := team.CreateVolume(ctx, storage.VolumeSpec{Name: "volume", SizeBytes: 1 << 30, RequestedProperties: agentapi.RequestedProperties{Mode: new("0777")}})
	if err != nil {
		return err
	}
	r.steady.Path = filepath.Join(volume.Path, "data")
	write := func(from, n int) error {
		for i := from; i < from+n; i++ {
			if err := os.WriteFile(filepath.Join(r.steady.Path, fmt.Sprint("file-", i%files)), make([]byte, 4096), 0o600); err != nil {
				return err
			}
		}
		return nil
	}
	if err := write(0, files); err != nil {
		return err
	}
	for i := range scene.snapshots {
		if err := write(i*changed, changed); err != nil {
			return err
		}
		if _, _, err := team.CreateSnapshot(ctx, storage.SnapshotSpec{Name: fmt.Sprint("snapshot-", i), Volume: "volume"}); err != nil {
			return err
		}
	}
	_, err = team.Export(ctx, "volume", storage.ExportSpec{Client: r.node.IP})
	return err
}

// smallFiles is the argument that makes Write write small files in several threads.
const smallFiles = "small-files"

// startSmallFiles makes the node write small files until stop, which returns the time of each file.
func (r *run) startSmallFiles(ctx context.Context, mounted string) (stop func() ([]int64, error), err error) {
	command := append(slices.Clone(r.options.Writer), mounted, smallFiles)
	cmd := r.onNode(ctx, command[0], command[1:]...)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() (made []int64, err error) {
		if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
			return nil, err
		}
		for line := range strings.Lines(out.String()) {
			at, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
			if err != nil {
				return nil, err
			}
			made = append(made, at)
		}
		return made, nil
	}, nil
}

// writeSmallFiles creates files of 4 KiB under a temporary name, like programs that replace a file,
// and removes the oldest, until in ends. It writes the creation time of each file in nanoseconds of
// Unix time. The client sends a file's content when the file is closed.
func writeSmallFiles(dir string, in io.Reader, out io.Writer) error {
	const writers, kept = 4, 64
	made := make([][]int64, writers)
	var ended atomic.Bool
	go func() {
		_, _ = io.Copy(io.Discard, in) // any end of the input ends the program
		ended.Store(true)
	}()
	var all errgroup.Group
	for writer := range writers {
		all.Go(func() error {
			name := func(i int) string { return filepath.Join(dir, fmt.Sprintf("%d-%d", writer, i)) }
			for i := 0; !ended.Load(); i++ {
				temporary := name(i) + ".tmp"
				err := errors.Join(os.WriteFile(temporary, make([]byte, 4096), 0o600), os.Rename(temporary, name(i)))
				if err == nil && i >= kept {
					err = os.Remove(name(i - kept))
				}
				if err != nil {
					return err
				}
				made[writer] = append(made[writer], time.Now().UnixNano())
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		return err
	}
	buffered := bufio.NewWriter(out)
	for _, at := range slices.Concat(made...) {
		fmt.Fprintln(buffered, at)
	}
	return buffered.Flush()
}
