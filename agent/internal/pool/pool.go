// Package pool manages the filesystem of the volumes: its identity and lock, its devices, space and
// quotas, its commits, and the files of the agent on it. It does not know volumes.
package pool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/openat2"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// Config configures a Pool.
type Config struct {
	BasePath string       // directory on a btrfs filesystem
	ID       uuid.UUID    // required ID of the pool; zero accepts any
	Quota    Quota        // "" means QuotaAuto
	ScrubDir string       // where btrfs-scrub(8) writes its results; "" means btrfs.ScrubStatusDir
	Logger   *slog.Logger // nil disables logging

	// CommitInterval is how often the agent makes changes of NFS clients durable. With 0, only the
	// kernel commits them. ClientOperations counts those changes: see nfsd.Server.
	CommitInterval   time.Duration
	ClientOperations func() (uint64, error)

	Fault func(step string) error // tests only: see Step
	Fstab string                  // tests only; "" means /etc/fstab
}

func (c Config) withDefaults() Config {
	if c.Quota == "" {
		c.Quota = QuotaAuto
	}
	if c.ScrubDir == "" {
		c.ScrubDir = btrfs.ScrubStatusDir
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Fstab == "" {
		c.Fstab = fstabFile
	}
	return c
}

// Pool is the base directory and the filesystem that contains it. It holds both open until Close.
// It is safe for concurrent use.
type Pool struct {
	config Config
	log    *slog.Logger
	path   string // absolute, without symbolic links; the NFS server gets this path
	base   *os.File
	fs     *btrfs.FS
	own    *os.File // ownDir
	lock   *os.File // ownDir/lock, while this agent has the pool open
	// identity is what the base path showed when the pool was opened.
	identity Identity
	// above are the parent directories of the base path. Their locks keep agents away that would
	// use this pool as a part of theirs.
	above []*os.File
	dev   uint64
	ino   uint64

	quota      Quota // off: the agent sets no limits
	held       heldQgroups
	reserve    sync.Mutex // protects the reserve for references: see reserve.go
	reserveLow atomic.Bool
	devices    deviceErrors
	scrubs     scrubFindings
	commits    *clientCommits // nil if they are turned off
}

// Purpose is why a pool is opened.
type Purpose int

// Purposes.
const (
	ForChanges Purpose = iota
	ForReading         // changes nothing; the pool may be read-only
	toInit             // creates the pool
)

// Open locks the pool for this process. It fails if the path is missing, not a directory, not on
// btrfs, read-only, not the wanted pool, or in use by another agent.
func Open(config Config, why Purpose) (*Pool, error) {
	config = config.withDefaults()
	path := config.BasePath
	if path == "" {
		return nil, errors.New("AGENT_BASE_PATH is not set")
	}
	resolved, err := filepath.EvalSymlinks(path)
	if err == nil {
		resolved, err = filepath.Abs(resolved)
	}
	if err != nil {
		return nil, fmt.Errorf("base path: %w", err)
	}
	p := &Pool{config: config, log: config.Logger, path: resolved}
	if err := p.open(why); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func (p *Pool) open(why Purpose) (err error) {
	if p.base, err = os.OpenFile(p.path, os.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
		return fmt.Errorf("base path: %w", err)
	}
	p.fs, err = btrfs.OpenFile(p.base)
	if errors.Is(err, btrfs.ErrNotBtrfs) {
		return fmt.Errorf("base path %s is not on btrfs: is the filesystem mounted?", p.path)
	}
	if err != nil {
		return fmt.Errorf("base path %s: %w", p.path, err)
	}
	p.commits = newClientCommits(p.config, p.fs.Commit)
	if readOnly, err := p.fs.ReadOnly(); err != nil || readOnly && why == ForChanges {
		return errors.Join(fmt.Errorf("base path %s is on a filesystem that is mounted read-only", p.path), err)
	}
	info, err := p.base.Stat()
	if err != nil {
		return err
	}
	stat := info.Sys().(*syscall.Stat_t)
	p.dev, p.ino = stat.Dev, stat.Ino
	if p.identity, err = readIdentity(p.base, p.config.Fstab); err != nil {
		return fmt.Errorf("base path %s: %w", p.path, err)
	}
	if err := p.identity.verify(p.path, p.config.ID, why); err != nil {
		return err // write nothing, because this may be the wrong filesystem
	}
	switch why {
	case ForReading:
		return openat2.IgnoreNotExist(p.lockOwn(0)) // without the directory, no agent has run here
	case toInit:
		if p.identity.ID != uuid.Nil {
			return nil // even while an agent runs
		}
		if err := p.makeOwn(); err != nil {
			return err
		}
	}
	if err := p.lockOwn(unix.O_CREAT); err != nil {
		return err
	}
	return p.lockAround()
}

// makeOwn makes the entry of the directory durable before the agent writes into the directory.
func (p *Pool) makeOwn() error {
	if err := unix.Mkdirat(int(p.base.Fd()), ownDir, 0o700); err != nil && err != unix.EEXIST {
		return fmt.Errorf("make %s in %s: %w", ownDir, p.path, err)
	}
	if err := p.base.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", p.path, err)
	}
	return nil
}

// lockOwn keeps a second agent away. The kernel releases a flock(2) when the process ends for any
// reason. The file is not open for writing, because that would keep an administrator from
// remounting the filesystem read-only.
func (p *Pool) lockOwn(create int) error {
	var err error
	if p.own, err = openat2.OpenDir(p.base, ownDir); err != nil {
		return err
	}
	fd, err := unix.Openat(int(p.own.Fd()), lockFile, unix.O_RDONLY|create|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("lock of %s: %w", p.path, err)
	}
	p.lock = os.NewFile(uintptr(fd), lockFile)
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("another agent has %s: only one agent may run on a pool", p.path)
	}
	return nil
}

// lockAround refuses a base path inside the base path of another agent, and one that contains the
// base path of another agent. The outer agent would revoke every export of the inner one, because
// it knows no volume for it. Each agent takes an exclusive lock of its base directory, and shared
// locks of the directories above.
func (p *Pool) lockAround() error {
	if err := unix.Flock(int(p.base.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("another agent has a directory in %s, and its exports would be revoked: only one agent may run on a pool", p.path)
	}
	for dir := p.path; dir != "/"; {
		dir = filepath.Dir(dir)
		lock, err := shareLock(dir)
		if err != nil {
			return fmt.Errorf("another agent has %s, and would revoke the exports of %s in it: %w", dir, p.path, err)
		}
		if lock != nil {
			p.above = append(p.above, lock)
		}
	}
	return nil
}

// shareLock takes a shared lock of a directory. It returns nil if the directory is not on btrfs,
// where no agent can use it.
func shareLock(path string) (*os.File, error) {
	dir, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, nil //nolint:nilerr // no agent uses a directory that cannot be opened
	}
	var on unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &on); err != nil || on.Type != unix.BTRFS_SUPER_MAGIC {
		dir.Close()
		return nil, nil //nolint:nilerr // the same
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		dir.Close()
		return nil, errors.New("only one agent may run on a pool")
	}
	return dir, nil
}

// unlock releases the lock explicitly. Closing the descriptor is not enough: a child process has a
// copy of it until its exec(2).
func unlock(lock *os.File) {
	if lock != nil {
		_ = unix.Flock(int(lock.Fd()), unix.LOCK_UN) // fails only in cases where closing works too
		lock.Close()
	}
}

// Close unlocks the pool. It can be called again.
func (p *Pool) Close() {
	p.commits.stop()
	for _, lock := range append(p.above, p.lock, p.base) {
		unlock(lock)
	}
	if p.own != nil {
		p.own.Close()
	}
	if p.fs != nil {
		p.fs.Close()
	}
}

// Check verifies that the base path still leads to the same directory as at start, and is writable.
// All work uses the descriptor that is open since then, so that no path is resolved between check
// and use.
func (p *Pool) Check() error {
	if err := p.isThere(); err != nil {
		return err
	}
	readOnly, err := p.fs.ReadOnly()
	if err != nil {
		return agentapi.Errorf(agentapi.Unavailable, "the pool does not answer: %w", err)
	}
	if readOnly {
		return agentapi.Errorf(agentapi.Unavailable, "the pool is read-only: %s takes no changes", p.path)
	}
	return nil
}

func (p *Pool) isThere() error {
	var stat unix.Stat_t
	if err := unix.Stat(p.path, &stat); err != nil {
		return agentapi.Errorf(agentapi.Unavailable, "the pool is gone: %s: %w", p.path, err)
	}
	if stat.Dev != p.dev || stat.Ino != p.ino {
		return agentapi.Errorf(agentapi.Unavailable, "the pool is gone: %s is no longer the directory that it was when the agent started; mount the filesystem and restart the agent", p.path)
	}
	return nil
}

// Path returns the path of the base directory: absolute, without symbolic links.
func (p *Pool) Path() string { return p.path }

// Base returns the base directory.
func (p *Pool) Base() *os.File { return p.base }

// VerifyID refuses a pool that a start of the agent would refuse.
func (p *Pool) VerifyID() error { return p.identity.verify(p.path, p.config.ID, ForChanges) }

// Step is a fail point. It runs before each system call that changes the pool, so that tests can
// fail or interrupt a change between any two of them.
func (p *Pool) Step(step, what string) error {
	if p.config.Fault == nil {
		return nil
	}
	if err := p.config.Fault(step); err != nil {
		return &fs.PathError{Op: step, Path: what, Err: err}
	}
	return nil
}

// Commit makes all earlier changes durable. Concurrent callers share a commit.
func (p *Pool) Commit(ctx context.Context) error {
	if err := p.Step("commit", ""); err != nil {
		return err
	}
	return p.fs.Commit(ctx)
}

// Sync is syncfs(2): a commit that writes out all data first.
func (p *Pool) Sync() error {
	if err := p.Step("sync", ""); err != nil {
		return err
	}
	return os.NewSyscallError("syncfs", unix.Syncfs(int(p.base.Fd())))
}

// StartCommits starts to commit the changes of NFS clients, until Close.
func (p *Pool) StartCommits() { p.commits.start() }

// keepFree is the space that a new volume, clone or snapshot must leave free, so that deletes and
// unexports keep working.
const keepFree = 16 << 20

// CheckRoom refuses changes that would fill up the pool, and a size that exceeds the pool. Below
// that, the sum of the sizes may exceed the pool.
func (p *Pool) CheckRoom(size int64) error {
	space, err := p.fs.Space()
	if err != nil {
		return err
	}
	if space.FreeBytes < keepFree {
		return agentapi.Errorf(agentapi.NoSpace, "the pool is full: %d bytes are free, %d are kept for deleting", space.FreeBytes, keepFree)
	}
	return fits(size, space)
}

// CheckSize refuses a size that exceeds the pool.
func (p *Pool) CheckSize(size int64) error {
	space, err := p.fs.Space()
	if err != nil {
		return err
	}
	return fits(size, space)
}

func fits(size int64, space btrfs.Space) error {
	if uint64(size) > space.TotalBytes {
		return agentapi.Errorf(agentapi.NoSpace, "size_bytes is %d, the whole pool holds %d", size, space.TotalBytes)
	}
	return nil
}
