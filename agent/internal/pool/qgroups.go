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

// RemovableQgroups returns the qgroups of destroyed subvolumes that can be removed. It leaves
// qgroups with nonzero counts for later. In full mode the kernel has dropped such a subvolume in
// the running transaction and still has to subtract it. Removing the qgroup earlier makes the
// kernel mark the quotas inconsistent (btrfs_remove_qgroup in fs/btrfs/qgroup.c). In simple mode
// clones use the data.
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

// countedOut returns the qgroups with only zero counts.
func countedOut(stale []uint64, groups map[uint64]btrfs.Qgroup) (out []uint64) {
	for _, id := range stale {
		if groups[id].Referenced == 0 && groups[id].Exclusive == 0 {
			out = append(out, id)
		}
	}
	return out
}

// kernelCleans is the time within which the kernel removes the qgroup of a subvolume that it has
// just dropped.
const kernelCleans = time.Second

// InspectQgroups finds the qgroups of destroyed subvolumes, without those that the kernel is still
// processing. It needs a commit. A read-only filesystem cannot commit, and the result is then
// empty.
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

// RemoveQgroup leaves a qgroup that is still in use for later.
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

// QgroupsDue reports whether to try again to remove qgroups. A deletion makes them due.
func (p *Pool) QgroupsDue(deleted bool) bool { return p.held.due(deleted) }

// heldQgroups are qgroups of deleted subvolumes that cannot be removed yet. The kernel drops and
// subtracts a subvolume within moments. But a client may hold it open for hours, and a clone may
// hold the qgroup of its source for years. The agent tries again at the next check, then after two
// more, four, and so on up to about an hour. A deletion resets the interval. Each try walks twice
// over all qgroups, and commits.
type heldQgroups struct {
	mu            sync.Mutex
	waiting       bool
	skipped, most int // checks since the last try, and their limit
}

const mostSkipped = 63

func (h *heldQgroups) wait() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting = true
}

// due reports whether this check should try. A deletion makes it try.
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
