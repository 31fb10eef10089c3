package pool

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

const (
	// commitPatience is how long a commit may take before the log says so.
	commitPatience = 30 * time.Second

	// commitRest is the pause after a commit, as a multiple of the time that the commit took. It
	// keeps slow commits from holding up clients most of the time: with commits under way for 17 %
	// of the time, clients wrote about 10 % fewer small files (docs/benchmarks-method.md).
	commitRest = 10
	// commitLatest bounds that: it is the kernel's own interval (BTRFS_DEFAULT_COMMIT_INTERVAL).
	commitLatest = 30 * time.Second
)

// clientCommits makes durable what NFS clients change in the tree: files made, renamed, removed and
// truncated, directories, attributes. The NFS server answers them before: it asks the filesystem to
// make the change durable (commit_metadata in fs/nfsd/vfs.c), and btrfs has no such operation. A
// client cannot ask for it either, as an fsync of a directory sends no request.
//
// Invariant: what was answered a pause and two commits ago is durable, as long as commits succeed.
// The first of the two was under way at the answer and may have begun too early for the change. A
// pause is the interval, or commitRest commits if these take longer. A filesystem without changes
// by clients is not committed, so that its disks can sleep.
type clientCommits struct {
	interval   time.Duration // between the end of a commit and the next look
	patience   time.Duration
	operations func() (uint64, error) // of clients, that were answered: see nfsd.Server
	commit     func(context.Context) error
	log        *slog.Logger

	covered  uint64 // operations that the last commit has made durable
	failing  bool
	cancel   context.CancelFunc
	finished chan struct{}
}

// newClientCommits is nil where they are turned off.
func newClientCommits(config Config, commit func(context.Context) error) *clientCommits {
	if config.CommitInterval == 0 || config.ClientOperations == nil {
		return nil
	}
	return &clientCommits{
		interval: config.CommitInterval, patience: commitPatience,
		operations: config.ClientOperations, commit: commit, log: config.Logger,
	}
}

func (c *clientCommits) start() {
	if c == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel, c.finished = cancel, make(chan struct{})
	go func() {
		defer close(c.finished)
		c.run(ctx)
	}()
}

// stop does not wait for a commit that is under way.
func (c *clientCommits) stop() {
	if c == nil || c.cancel == nil {
		return
	}
	c.cancel()
	<-c.finished
}

// run has one commit under way at a time. One that hangs is joined by the next, which starts
// nothing: see btrfs.FS.Commit.
func (c *clientCommits) run(ctx context.Context) {
	timer := time.NewTimer(c.interval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		began := time.Now()
		c.look(ctx)
		timer.Reset(c.pause(time.Since(began)))
	}
}

// pause is how long to wait after a look.
func (c *clientCommits) pause(took time.Duration) time.Duration {
	return max(c.interval, min(commitRest*took, commitLatest))
}

// look commits if clients have changed something since the last commit. Where it cannot tell, it
// commits: that costs nothing if nothing has changed.
func (c *clientCommits) look(ctx context.Context) {
	operations, err := c.operations()
	if err == nil && operations == c.covered && !c.failing {
		return
	}
	within, cancel := context.WithTimeout(ctx, c.patience)
	defer cancel()
	commitErr := c.commit(within)
	if ctx.Err() != nil {
		return
	}
	if commitErr == nil && err == nil {
		c.covered = operations
	}
	c.report(errors.Join(err, commitErr))
}

// report logs the first failure and the first success after it, however many there are between.
func (c *clientCommits) report(err error) {
	switch {
	case err != nil && !c.failing:
		c.log.Error("failed to commit changes of NFS clients: a power cut may lose those that were answered since the last commit", "error", err)
	case err == nil && c.failing:
		c.log.Info("committed changes of NFS clients again")
	}
	c.failing = err != nil
}
