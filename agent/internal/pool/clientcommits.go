package pool

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

const (
	// commitPatience is how long a commit may take before the agent logs it as slow.
	commitPatience = 30 * time.Second

	// commitRest is the pause after a commit, as a multiple of the duration of the commit. It keeps
	// slow commits from delaying clients most of the time. With commits running 17 % of the time,
	// clients wrote about 10 % fewer small files (docs/benchmarks-method.md).
	commitRest = 10
	// commitLatest limits that pause. It is the kernel's own interval
	// (BTRFS_DEFAULT_COMMIT_INTERVAL).
	commitLatest = 30 * time.Second
)

// clientCommits makes tree changes of NFS clients durable: files that they create, rename, remove
// and truncate, directories, attributes. The NFS server replies before these changes are durable.
// It asks the filesystem to commit them (commit_metadata in fs/nfsd/vfs.c), and btrfs does not
// implement that operation. A client cannot request it either, because an fsync of a directory
// sends no request.
//
// Invariant: a change that the server acknowledged one pause and two commits ago is durable, as
// long as commits succeed. The first of the two ran at that moment and may have begun too early for
// the change. A pause is the interval, or commitRest commits if that is longer. The agent does not
// commit a filesystem without changes by clients, so that its disks can sleep.
type clientCommits struct {
	interval   time.Duration // from the end of a commit to the next check
	patience   time.Duration
	operations func() (uint64, error) // number of acknowledged client operations: see nfsd.Server
	commit     func(context.Context) error
	log        *slog.Logger

	covered  uint64 // operations that the last commit made durable
	failing  bool
	cancel   context.CancelFunc
	finished chan struct{}
}

// newClientCommits returns nil if these commits are turned off.
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

// stop does not wait for a running commit.
func (c *clientCommits) stop() {
	if c == nil || c.cancel == nil {
		return
	}
	c.cancel()
	<-c.finished
}

// run has one commit running at a time. If a commit hangs, the next one joins it and starts no
// other: see btrfs.FS.Commit.
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

// pause returns how long to wait after a check.
func (c *clientCommits) pause(took time.Duration) time.Duration {
	return max(c.interval, min(commitRest*took, commitLatest))
}

// look commits if clients have changed something since the last commit. If it cannot tell, it
// commits anyway, which costs nothing without changes.
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

// report logs the first of a series of failures, and the first success after them.
func (c *clientCommits) report(err error) {
	switch {
	case err != nil && !c.failing:
		c.log.Error("failed to commit changes of NFS clients: a power cut may lose those that were answered since the last commit", "error", err)
	case err == nil && c.failing:
		c.log.Info("committed changes of NFS clients again")
	}
	c.failing = err != nil
}
