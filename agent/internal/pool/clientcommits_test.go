package pool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/test/logbuffer"
)

// clientOperations is a fake of the counters of the NFS server.
type clientOperations struct {
	count atomic.Uint64
	looks atomic.Int64 // number of reads of the counters
}

func (o *clientOperations) read() (uint64, error) {
	o.looks.Add(1)
	return o.count.Load(), nil
}

// awaitLooks returns after n more reads of the counters. The pool has then handled all earlier
// changes.
func (o *clientOperations) awaitLooks(t *testing.T, n int64) {
	t.Helper()
	until := o.looks.Load() + n
	testpool.Eventually(t, func() poll.Result {
		return testpool.When(o.looks.Load() >= until, "%d looks of %d", o.looks.Load(), until)
	})
}

const (
	commitFailed = "failed to commit changes of NFS clients"
	commitsAgain = "committed changes of NFS clients again"
)

// Changes of clients become durable without any other change. Without changes there is no commit.
func TestChangesOfClientsBecomeDurable(t *testing.T) {
	t.Parallel()
	disk := testpool.New(t, testpool.Options{MountOptions: "commit=300"}) // seconds: the kernel does not commit on a timer
	var clients clientOperations
	p := open(t, Config{BasePath: disk.Dir, CommitInterval: 10 * time.Millisecond, ClientOperations: clients.read})
	p.StartCommits()
	data := filepath.Join(disk.Dir, "data")
	assert.NilError(t, os.Mkdir(data, 0o700))

	for _, change := range []struct {
		name string
		make func() error
	}{
		{"mkdir", func() error { return os.Mkdir(filepath.Join(data, "dir"), 0o700) }},
		{"rename", func() error { return os.Rename(filepath.Join(data, "dir"), filepath.Join(data, "renamed")) }},
		{"link", func() error { return os.Symlink("somewhere", filepath.Join(data, "link")) }},
		{"unlink", func() error { return os.Remove(filepath.Join(data, "link")) }},
	} {
		before := testpool.Commits(t, p.fs.FSID())
		assert.NilError(t, change.make())
		clients.count.Add(1)
		testpool.Eventually(t, func() poll.Result {
			return testpool.When(testpool.Commits(t, p.fs.FSID()) > before, "no commit after %s", change.name)
		})
	}
	// On a busy machine, the wait for a commit requests another one: see startCommit in package
	// btrfs.
	const rounds = 10
	for round := 1; ; round++ {
		clients.awaitLooks(t, 2) // the last commit has ended
		before := testpool.Commits(t, p.fs.FSID())
		assert.NilError(t, os.Mkdir(filepath.Join(data, fmt.Sprint("of the host ", round)), 0o700))
		clients.awaitLooks(t, 20)
		after := testpool.Commits(t, p.fs.FSID())
		if before == after {
			break
		}
		assert.Assert(t, round < rounds, "there are commits without a change by clients")
	}

	var left []string
	entries, err := os.ReadDir(filepath.Join(disk.Copy().Dir, "data"))
	assert.NilError(t, err)
	for _, entry := range entries {
		left = append(left, entry.Name())
	}
	assert.Assert(t, slices.Contains(left, "renamed") && !slices.Contains(left, "dir") && !slices.Contains(left, "link"), "%v", left)
}

// Each check retries a failed commit. The agent logs the first failure and the first success after
// it.
func TestFailingCommitsAreLoggedOnce(t *testing.T) {
	disk := testpool.New(t, testpool.Options{})
	var clients clientOperations
	var log logbuffer.Buffer
	config := Config{
		BasePath: disk.Dir, CommitInterval: time.Millisecond, ClientOperations: clients.read, Logger: slog.New(slog.NewTextHandler(&log, nil)),
	}
	p := open(t, config)
	p.StartCommits()
	remount := func(option string) {
		out, err := exec.Command("mount", "-o", "remount,"+option, disk.Dir).CombinedOutput()
		assert.NilError(t, err, "%s", out)
	}
	for round := 1; round <= 2; round++ {
		remount("ro")
		clients.count.Add(1)
		testpool.Eventually(t, func() poll.Result { return testpool.When(log.Count(commitFailed) >= round, "nothing is in the log") })
		clients.awaitLooks(t, 50)
		assert.Equal(t, log.Count(commitFailed), round)
		assert.Equal(t, log.Count(commitsAgain), round-1)

		remount("rw")
		testpool.Eventually(t, func() poll.Result { return testpool.When(log.Count(commitsAgain) >= round, "nothing is in the log") })
		clients.awaitLooks(t, 50)
		assert.Equal(t, log.Count(commitsAgain), round)
	}
	assert.NilError(t, p.Check())
}

// If a disk hangs, one commit waits for it and the log has one line. The agent can still stop.
func TestHungCommit(t *testing.T) {
	var clients clientOperations
	var log logbuffer.Buffer
	var waiting, most, calls atomic.Int32
	c := &clientCommits{
		interval: time.Millisecond, patience: time.Millisecond, operations: clients.read, log: slog.New(slog.NewTextHandler(&log, nil)),
		commit: func(ctx context.Context) error {
			most.Store(max(most.Load(), waiting.Add(1)))
			defer waiting.Add(-1)
			calls.Add(1)
			<-ctx.Done()
			return ctx.Err()
		},
	}
	clients.count.Add(1)
	c.start()
	testpool.Eventually(t, func() poll.Result { return testpool.When(calls.Load() > 20, "%d commits were tried", calls.Load()) })
	c.stop()
	assert.Equal(t, most.Load(), int32(1))
	assert.Equal(t, log.Count(commitFailed), 1)

	c.patience = time.Hour
	before := calls.Load()
	c.start()
	testpool.Eventually(t, func() poll.Result { return testpool.When(calls.Load() > before, "no commit has begun") })
	c.stop() // while the commit hangs
}

// Slow commits do not take up most of the time of clients.
func TestPauseBetweenCommits(t *testing.T) {
	c := &clientCommits{interval: time.Second}
	for took, want := range map[time.Duration]time.Duration{
		0: time.Second, 100 * time.Millisecond: time.Second, 300 * time.Millisecond: 3 * time.Second, time.Minute: 30 * time.Second,
	} {
		assert.Equal(t, c.pause(took), want)
	}
}

// Changes are committed even if the counters cannot be read.
func TestCommitsWithoutCounters(t *testing.T) {
	var log logbuffer.Buffer
	commits := 0
	c := &clientCommits{
		patience: time.Minute, log: slog.New(slog.NewTextHandler(&log, nil)),
		operations: func() (uint64, error) { return 0, errors.New("no counters") },
		commit:     func(context.Context) error { commits++; return nil },
	}
	for range 3 {
		c.look(t.Context())
	}
	assert.Equal(t, commits, 3)
	assert.Equal(t, log.Count("no counters"), 1)
}

// A failure ends when its cause is gone, even if clients change nothing. The agent then logs the
// next failure.
func TestFailureEndsWithoutChanges(t *testing.T) {
	var log logbuffer.Buffer
	var unreadable, failure error
	var operations uint64
	c := &clientCommits{
		patience: time.Minute, log: slog.New(slog.NewTextHandler(&log, nil)),
		operations: func() (uint64, error) { return operations, unreadable },
		commit:     func(context.Context) error { return failure },
	}
	unreadable = errors.New("no counters")
	c.look(t.Context())
	unreadable = nil
	c.look(t.Context())
	assert.Equal(t, log.Count(commitsAgain), 1)

	operations, failure = 1, errors.New("no disk")
	c.look(t.Context())
	assert.Equal(t, log.Count("no disk"), 1)
}
