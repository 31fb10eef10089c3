package nfsmount

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
	"k8s.io/mount-utils"
)

// Check asks the server whether the directory that is mounted at dir still exists. It returns nil,
// ErrStale or ErrUnresponsive. It returns ErrNotMounted without a request to the server.
//
// It uses statfs(2), which an NFS client always sends to the server. The client may answer statx(2)
// itself, even with AT_STATX_FORCE_SYNC and with a dead server, while it holds a delegation of the
// directory (RFC 8881 section 10.9; seen on Linux 7.2).
func (m *Mounter) Check(ctx context.Context, dir string) error {
	_, err := m.Statfs(ctx, dir)
	return err
}

// Statfs calls statfs(2). It returns the errors of Check. Over NFS the result describes the
// server's whole pool and not the volume's quota. btrfs has no count of inodes: Files is 0.
//
// At most one request per mount is in progress. The mount ID is its key, so that a request that is
// stuck in a replaced mount does not count for the new one.
func (m *Mounter) Statfs(ctx context.Context, dir string) (unix.Statfs_t, error) {
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
	answer := m.requests.DoChan(strconv.Itoa(point.id), func() (any, error) {
		var s unix.Statfs_t
		err := unix.Statfs(dir, &s)
		return s, err
	})
	select {
	case r := <-answer:
		switch {
		case r.Err == nil:
			return r.Val.(unix.Statfs_t), nil
		case mount.IsCorruptedMnt(r.Err):
			return unix.Statfs_t{}, fmt.Errorf("%s: %w: %w", dir, ErrStale, r.Err)
		}
		return unix.Statfs_t{}, fmt.Errorf("%s: statfs: %w", dir, r.Err)
	case <-ctx.Done():
		reason := context.Cause(ctx)
		if !errors.Is(reason, ErrUnresponsive) {
			reason = fmt.Errorf("%w in time: %w", ErrUnresponsive, reason)
		}
		return unix.Statfs_t{}, reason
	}
}
