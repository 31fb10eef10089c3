package nfsmount

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
	"k8s.io/mount-utils"
)

// Check asks the server whether the directory that is mounted at dir is still there: nil, ErrStale, ErrUnresponsive, or
// ErrNotMounted without a question.
func (m *Mounter) Check(ctx context.Context, dir string) error {
	_, err := m.ask(ctx, dir, "statx", func(dir string) (any, error) {
		var answer unix.Statx_t
		// Without AT_STATX_FORCE_SYNC the client may answer from what it remembers (statx(2)).
		return nil, unix.Statx(unix.AT_FDCWD, dir, unix.AT_STATX_FORCE_SYNC|unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &answer)
	})
	return err
}

// Capacity is what statfs(2) says of a volume's filesystem. Over NFS that is the server's whole pool, not the volume's quota.
type Capacity struct {
	TotalBytes, UsedBytes, AvailableBytes    int64
	TotalInodes, UsedInodes, AvailableInodes int64 // 0 where the filesystem does not count, as btrfs
}

// Capacity asks the server. Errors are those of Check.
func (m *Mounter) Capacity(ctx context.Context, dir string) (Capacity, error) {
	answer, err := m.ask(ctx, dir, "statfs", func(dir string) (any, error) {
		var s unix.Statfs_t
		err := unix.Statfs(dir, &s)
		return s, err
	})
	if err != nil {
		return Capacity{}, err
	}
	s := answer.(unix.Statfs_t)
	return Capacity{
		TotalBytes:      int64(s.Blocks) * s.Bsize,
		UsedBytes:       int64(s.Blocks-s.Bfree) * s.Bsize,
		AvailableBytes:  int64(s.Bavail) * s.Bsize,
		TotalInodes:     int64(s.Files),
		UsedInodes:      int64(s.Files - s.Ffree),
		AvailableInodes: int64(s.Ffree),
	}, nil
}

// ask puts a question about the mount at dir. Only one of a kind is under way for a mount at any time. The mount's own
// number is part of the name, so that a question stuck in a mount that was replaced does not stand for the new one.
func (m *Mounter) ask(ctx context.Context, dir, kind string, f func(dir string) (any, error)) (any, error) {
	ctx, cancel := m.patience(ctx)
	defer cancel()
	dir, err := m.resolve(ctx, dir)
	if err != nil {
		return nil, err
	}
	point, err := m.Lookup(dir)
	if err != nil {
		return nil, err
	}
	answer, err := m.probes.ask(ctx, fmt.Sprintf("%s %d", kind, point.id), func() (any, error) { return f(dir) })
	switch {
	case err == nil, errors.Is(err, ErrUnresponsive):
		return answer, err
	case mount.IsCorruptedMnt(err):
		return nil, fmt.Errorf("%s: %w: %w", dir, ErrStale, err)
	}
	return nil, fmt.Errorf("%s: %s: %w", dir, kind, err)
}
