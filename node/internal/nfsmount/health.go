package nfsmount

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
	"k8s.io/mount-utils"
)

// Check asks the server whether the directory that is mounted at dir is still there: nil, ErrStale, ErrUnresponsive, or
// ErrNotMounted without a question.
//
// The question is statfs(2), which an NFS client always passes on. To statx(2) it may answer itself, even with
// AT_STATX_FORCE_SYNC, while it holds a delegation of the directory (RFC 8881 section 10.9; seen on Linux 7.2), dead server or not.
func (m *Mounter) Check(ctx context.Context, dir string) error {
	_, err := m.statfs(ctx, dir)
	return err
}

// Capacity is what statfs(2) says of a volume's filesystem. Over NFS that is the server's whole pool, not the volume's quota.
type Capacity struct {
	TotalBytes, UsedBytes, AvailableBytes    int64
	TotalInodes, UsedInodes, AvailableInodes int64 // 0 where the filesystem does not count, as btrfs
}

// Capacity asks the server. Errors are those of Check.
func (m *Mounter) Capacity(ctx context.Context, dir string) (Capacity, error) {
	s, err := m.statfs(ctx, dir)
	if err != nil {
		return Capacity{}, err
	}
	return Capacity{
		TotalBytes:      int64(s.Blocks) * s.Bsize,
		UsedBytes:       int64(s.Blocks-s.Bfree) * s.Bsize,
		AvailableBytes:  int64(s.Bavail) * s.Bsize,
		TotalInodes:     int64(s.Files),
		UsedInodes:      int64(s.Files - s.Ffree),
		AvailableInodes: int64(s.Ffree),
	}, nil
}

// statfs asks about the mount at dir. Only one question is under way for a mount at any time. The mount's own number is its
// name, so that a question stuck in a mount that was replaced does not stand for the new one.
func (m *Mounter) statfs(ctx context.Context, dir string) (unix.Statfs_t, error) {
	ctx, cancel := m.patience(ctx)
	defer cancel()
	dir, err := m.resolve(ctx, dir)
	if err != nil {
		return unix.Statfs_t{}, err
	}
	point, err := m.Lookup(dir)
	if err != nil {
		return unix.Statfs_t{}, err
	}
	answer, err := m.probes.ask(ctx, strconv.Itoa(point.id), func() (unix.Statfs_t, error) {
		var s unix.Statfs_t
		err := unix.Statfs(dir, &s)
		return s, err
	})
	switch {
	case err == nil, errors.Is(err, ErrUnresponsive):
		return answer, err
	case mount.IsCorruptedMnt(err):
		return answer, fmt.Errorf("%s: %w: %w", dir, ErrStale, err)
	}
	return answer, fmt.Errorf("%s: statfs: %w", dir, err)
}
