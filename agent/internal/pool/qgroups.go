package pool

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
)

// RemovableQgroups are those of subvolumes that are gone. One with numbers is left for later: in full mode its subvolume was dropped
// in the transaction that is running now, which will count it out, and to remove it before makes the kernel declare the quotas
// inconsistent (btrfs_remove_qgroup in fs/btrfs/qgroup.c); in simple mode clones use the data.
func (p *Pool) RemovableQgroups(ctx context.Context) ([]uint64, error) {
	if p.quota == QuotaOff {
		return nil, nil
	}
	stale, dropping, err := p.fs.StaleQgroups(ctx)
	if err != nil {
		return nil, err
	}
	if dropping {
		p.held.wait()
	}
	if len(stale) == 0 {
		return nil, nil
	}
	groups, err := p.fs.Qgroups()
	if err != nil {
		return nil, err
	}
	removable := countedOut(stale, groups)
	if len(removable) < len(stale) {
		p.held.wait()
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

// InspectQgroups finds those of subvolumes that are gone, without what the kernel is still busy with. It takes a commit, which a read-only
// filesystem does not make: then there are none.
func (p *Pool) InspectQgroups(ctx context.Context) ([]uint64, error) {
	readOnly, err := p.fs.ReadOnly()
	if err != nil || readOnly {
		return nil, err
	}
	first, err := p.RemovableQgroups(ctx)
	if err != nil || len(first) == 0 {
		return nil, err
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(kernelCleans):
	}
	second, err := p.RemovableQgroups(ctx)
	return slices.DeleteFunc(second, func(id uint64) bool { return !slices.Contains(first, id) }), err
}

// RemoveQgroup leaves one that is still in use for later.
func (p *Pool) RemoveQgroup(id uint64) error {
	err := p.fs.RemoveQgroup(id)
	switch {
	case errors.Is(err, unix.EBUSY):
		p.held.wait()
		return nil
	case errors.Is(err, btrfs.ErrNoQgroup):
		return nil
	}
	return err
}

// QgroupsDue says whether it is time to try again to remove qgroups, as it is after a deletion.
func (p *Pool) QgroupsDue(deleted bool) bool { return p.held.due(deleted) }

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
