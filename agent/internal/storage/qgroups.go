package storage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
)

// reapQgroups removes the qgroups of subvolumes that are gone: kernels before about 6.10 leave them, and in simple
// mode all do while a clone uses the data; those are tried again later.
func (s *Store) reapQgroups(ctx context.Context) error {
	if s.quota == btrfs.QuotaOff {
		return nil
	}
	stale, err := s.staleQgroups(ctx)
	if err != nil {
		return err
	}
	for _, id := range stale {
		f := Finding{Kind: StaleQgroup, Path: s.pool.path, Detail: fmt.Sprintf("qgroup 0/%d", id)}
		if err := s.repair(f, func() error { return s.removeQgroup(id) }); err != nil {
			return err
		}
	}
	return nil
}

// staleQgroups are those that can be removed. One with numbers cannot: in full mode its subvolume was dropped in the transaction
// that is running now, which will count it out, and to remove it before makes the kernel declare the quotas inconsistent
// (btrfs_remove_qgroup in fs/btrfs/qgroup.c); in simple mode clones use the data.
func (s *Store) staleQgroups(ctx context.Context) ([]uint64, error) {
	if s.inspection != nil {
		return s.inspection.stale, nil
	}
	return s.removableQgroups(ctx)
}

func (s *Store) removableQgroups(ctx context.Context) ([]uint64, error) {
	stale, dropping, err := s.pool.fs.StaleQgroups(ctx)
	if err != nil {
		return nil, err
	}
	if dropping {
		s.maintenance.held.wait()
	}
	if len(stale) == 0 {
		return nil, nil
	}
	groups, err := s.pool.fs.Qgroups()
	if err != nil {
		return nil, err
	}
	removable := countedOut(stale, groups)
	if len(removable) < len(stale) {
		s.maintenance.held.wait()
	}
	return removable, nil
}

// countedOut are those whose numbers are all zero.
func countedOut(stale []uint64, groups map[uint64]btrfs.Qgroup) (out []uint64) {
	for _, id := range stale {
		if groups[id].Referenced == 0 && groups[id].Exclusive == 0 {
			out = append(out, id)
		}
	}
	return out
}

// kernelCleans is the time in which the kernel itself removes the qgroup of a subvolume that it has just dropped.
const kernelCleans = time.Second

// inspectQgroups finds the stale ones, without what the kernel is still busy with. It takes a commit, which a read-only
// filesystem does not make: then there are none.
func (s *Store) inspectQgroups(ctx context.Context) ([]uint64, error) {
	readOnly, err := s.pool.fs.ReadOnly()
	if err != nil || readOnly || s.quota == btrfs.QuotaOff {
		return nil, err
	}
	first, err := s.removableQgroups(ctx)
	if err != nil || len(first) == 0 {
		return nil, err
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(kernelCleans):
	}
	second, err := s.removableQgroups(ctx)
	return slices.DeleteFunc(second, func(id uint64) bool { return !slices.Contains(first, id) }), err
}

// removeQgroup leaves one that is still in use for later.
func (s *Store) removeQgroup(id uint64) error {
	err := s.disk.fs.RemoveQgroup(id)
	switch {
	case isErrno(err, unix.EBUSY):
		s.maintenance.held.wait()
		return nil
	case errors.Is(err, btrfs.ErrNoQgroup):
		return nil
	}
	return err
}

// heldQgroups are qgroups of deleted subvolumes that cannot be removed yet. The kernel drops a subvolume, and counts it out,
// within moments, but a client may hold it open for hours, and a clone its source's qgroup for years: they are tried again at
// the next look, then after two more, four, and so on to about an hour, and from the beginning after a deletion. A try walks
// twice over all qgroups, and commits.
type heldQgroups struct {
	mu            sync.Mutex
	waiting       bool
	skipped, most int // looks since the last try, and how many at most
}

const mostSkipped = 63

func (h *heldQgroups) wait() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting = true
}

// due says whether this look is to try, as it is after a deletion.
func (h *heldQgroups) due(deleted bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case deleted:
		h.most = 0
	case !h.waiting:
		return false
	case h.skipped < h.most:
		h.skipped++
		return false
	default:
		h.most = min(2*h.most+1, mostSkipped)
	}
	h.waiting, h.skipped = false, 0
	return true
}
