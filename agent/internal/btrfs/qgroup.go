package btrfs

import (
	"context"
	"errors"
	"math"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Qgroup is what the filesystem counts for one subvolume. All sizes are bytes, before compression and
// without redundancy, including some metadata: an empty subvolume references one node (Info.NodeSize).
// Numbers are those of the last commit.
type Qgroup struct {
	ID         uint64 // of the subvolume
	Referenced uint64 // what it references, also what it shares with others
	// Exclusive is what its destruction would free: always equal to Referenced in simple mode, and in
	// full mode what it shares with no other.
	Exclusive     uint64
	MaxReferenced uint64 // limit; 0 is none
	MaxExclusive  uint64 // limit; 0 is none
}

// SetLimit limits what a subvolume may reference, in bytes; 0 removes the limit. Writes beyond it fail
// with EDQUOT, as do snapshots and new files. It acts at once and is durable after the next Commit.
// A limit below what is referenced already is accepted, and stops further writes.
func (fs *FS) SetLimit(subvolume, maxReferenced uint64) error {
	args := qgroupLimitArgs{QgroupID: subvolume, Flags: limitMaxReferenced, MaxReferenced: maxReferenced}
	if maxReferenced == 0 {
		args.MaxReferenced = math.MaxUint64 // CLEAR_VALUE in fs/btrfs/qgroup.c: take the limit away
	}
	err := ioctl(fs.dir, iocQgroupLimit, unsafe.Pointer(&args))
	return failed("set limit", strconv.FormatUint(subvolume, 10), qgroupError(err))
}

// Qgroup reads the numbers of one subvolume.
func (fs *FS) Qgroup(subvolume uint64) (Qgroup, error) {
	qgroup, err := fs.qgroup(subvolume)
	return qgroup, failed("qgroup", strconv.FormatUint(subvolume, 10), err)
}

// QgroupCounts is Qgroup without the limits, for half the system calls.
func (fs *FS) QgroupCounts(subvolume uint64) (Qgroup, error) {
	qgroup, err := fs.qgroupCounts(subvolume)
	return qgroup, failed("qgroup", strconv.FormatUint(subvolume, 10), err)
}

func (fs *FS) qgroupCounts(id uint64) (Qgroup, error) {
	qgroup := Qgroup{ID: id}
	info, found, err := searchOne(fs.dir, key{0, qgroupInfoKey, id})
	switch {
	case noSuchTree(err):
		return qgroup, ErrQuotaDisabled
	case err != nil:
		return qgroup, err
	case !found:
		return qgroup, ErrNoQgroup
	}
	qgroup.setInfo(info)
	return qgroup, nil
}

func (fs *FS) qgroup(id uint64) (Qgroup, error) {
	qgroup, err := fs.qgroupCounts(id)
	if err != nil {
		return qgroup, err
	}
	limit, _, err := searchOne(fs.dir, key{0, qgroupLimitKey, id})
	qgroup.setLimit(limit)
	return qgroup, err
}

// Qgroups reads the numbers of all subvolumes, by their IDs. It takes about one system call for each 900.
// The top of the filesystem is in it, as 5; groups of groups are not.
func (fs *FS) Qgroups() (map[uint64]Qgroup, error) {
	qgroups := map[uint64]Qgroup{}
	err := fs.visitQgroups(qgroupLimitKey, func(it item) {
		qgroup := qgroups[it.offset]
		qgroup.ID = it.offset
		switch it.typ {
		case qgroupInfoKey:
			qgroup.setInfo(it.data)
		case qgroupLimitKey:
			qgroup.setLimit(it.data)
		default:
			return
		}
		qgroups[it.offset] = qgroup
	})
	if err != nil {
		return nil, failed("list qgroups", "", err)
	}
	return qgroups, nil
}

// EachQgroupCounts shows visit what Qgroups returns without the limits: for half the system calls, and without keeping it.
func (fs *FS) EachQgroupCounts(visit func(Qgroup)) error {
	return failed("list qgroups", "", fs.visitQgroups(qgroupInfoKey, func(it item) {
		if it.typ == qgroupInfoKey {
			qgroup := Qgroup{ID: it.offset}
			qgroup.setInfo(it.data)
			visit(qgroup)
		}
	}))
}

// visitQgroups visits the items of subvolumes' qgroups up to that type: all infos come before all limits.
func (fs *FS) visitQgroups(lastType uint32, visit func(item)) error {
	first, last := key{0, qgroupInfoKey, 0}, key{0, lastType, maxLevel0}
	err := search(fs.dir, quotaTree, first, last, func(it item) bool {
		if it.offset <= maxLevel0 {
			visit(it)
		}
		return true
	})
	if noSuchTree(err) {
		return ErrQuotaDisabled
	}
	return err
}

// RemoveQgroup removes the qgroup of a subvolume that no longer exists. One that is still needed is
// EBUSY: its subvolume exists or, in simple mode, others still use what it wrote.
func (fs *FS) RemoveQgroup(id uint64) error {
	args := qgroupCreateArgs{Create: 0, QgroupID: id}
	err := ioctl(fs.dir, iocQgroupCreate, unsafe.Pointer(&args))
	return failed("remove qgroup", strconv.FormatUint(id, 10), qgroupError(err))
}

// StaleQgroups lists the qgroups whose subvolumes are gone, in order. Kernels before about 6.10 leave
// them behind, and in simple mode all kernels do while others use what the subvolume wrote.
// It costs a commit: a subvolume that is being created has its qgroup first and its root after, both in
// one transaction, so that only a qgroup that has no root after the next commit is a stale one. There
// may be more later where subvolumes are dropping: destroyed, and not cleaned up by the kernel yet,
// which takes it minutes, or for as long as somebody has a file open.
func (fs *FS) StaleQgroups(ctx context.Context) (stale []uint64, dropping bool, err error) {
	qgroups, err := fs.Qgroups()
	if err != nil {
		return nil, false, err
	}
	if err := fs.Commit(ctx); err != nil {
		return nil, false, err
	}
	alive, dropping, err := listRootIDs(fs.dir)
	if err != nil {
		return nil, false, failed("list stale qgroups", "", err)
	}
	for id := range qgroups {
		if id >= firstFreeObjectID && !alive[id] {
			stale = append(stale, id)
		}
	}
	slices.Sort(stale)
	return stale, dropping, nil
}

// maxLevel0 is the highest ID of a subvolume's own qgroup: the upper 16 bits are the level in the
// hierarchy of groups (BTRFS_QGROUP_LEVEL_SHIFT).
const maxLevel0 = 1<<48 - 1

// setInfo reads struct btrfs_qgroup_info_item: generation, rfer, rfer_cmpr, excl, excl_cmpr.
func (q *Qgroup) setInfo(data []byte) {
	q.Referenced, q.Exclusive = field64(data, 8), field64(data, 24)
}

// setLimit reads struct btrfs_qgroup_limit_item: flags, max_rfer, max_excl, rsv_rfer, rsv_excl.
func (q *Qgroup) setLimit(data []byte) {
	flags := field64(data, 0)
	if flags&limitMaxReferenced != 0 {
		q.MaxReferenced = field64(data, 8)
	}
	if flags&limitMaxExclusive != 0 {
		q.MaxExclusive = field64(data, 16)
	}
}

func qgroupError(err error) error {
	switch {
	case errors.Is(err, unix.ENOTCONN):
		return ErrQuotaDisabled
	case errors.Is(err, unix.ENOENT):
		return ErrNoQgroup
	}
	return err
}
