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

// Qgroup holds the numbers of the qgroup of one subvolume. All sizes are in bytes, before
// compression and without redundancy. They include some metadata: an empty subvolume references one
// node. The numbers are those of the last commit.
type Qgroup struct {
	ID         uint64 // of the subvolume
	Referenced uint64 // all referenced data, including data shared with other subvolumes
	// Exclusive is what a destruction would free. In simple mode it equals Referenced. In full mode
	// it is the data that no other subvolume shares.
	Exclusive     uint64
	MaxReferenced uint64 // limit; 0 means none
}

// SetLimit limits the referenced bytes of a subvolume. 0 removes the limit. Writes, snapshots and
// new files beyond the limit fail with EDQUOT. The limit takes effect at once and is durable after
// the next Commit. A limit below the current usage is accepted, and stops further writes.
func (fs *FS) SetLimit(subvolume, maxReferenced uint64) error {
	args := qgroupLimitArgs{QgroupID: subvolume, Flags: limitMaxReferenced, MaxReferenced: maxReferenced}
	if maxReferenced == 0 {
		args.MaxReferenced = math.MaxUint64 // CLEAR_VALUE in fs/btrfs/qgroup.c: removes the limit
	}
	err := ioctl(fs.dir, iocQgroupLimit, unsafe.Pointer(&args))
	return failed("set limit", strconv.FormatUint(subvolume, 10), qgroupError(err))
}

// Qgroup reads the numbers of one subvolume.
func (fs *FS) Qgroup(subvolume uint64) (Qgroup, error) {
	qgroup, err := fs.qgroup(subvolume)
	return qgroup, failed("qgroup", strconv.FormatUint(subvolume, 10), err)
}

// QgroupCounts is Qgroup without the limits. It needs half the system calls.
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

// Qgroups reads the numbers of all subvolumes, by ID. One system call returns about 900. The result
// contains the top of the filesystem as ID 5, but no qgroups of higher levels.
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

// EachQgroupCounts calls visit for each subvolume of Qgroups, without the limits. It needs half the
// system calls, and does not keep the result in memory.
func (fs *FS) EachQgroupCounts(visit func(Qgroup)) error {
	return failed("list qgroups", "", fs.visitQgroups(qgroupInfoKey, func(it item) {
		if it.typ == qgroupInfoKey {
			qgroup := Qgroup{ID: it.offset}
			qgroup.setInfo(it.data)
			visit(qgroup)
		}
	}))
}

// visitQgroups visits the items of subvolume qgroups up to that type. All info items come before
// all limit items.
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

// RemoveQgroup removes the qgroup of a destroyed subvolume. The error is EBUSY if the subvolume
// exists or, in simple mode, if other subvolumes still use its data.
func (fs *FS) RemoveQgroup(id uint64) error {
	args := qgroupCreateArgs{Create: 0, QgroupID: id}
	err := ioctl(fs.dir, iocQgroupCreate, unsafe.Pointer(&args))
	return failed("remove qgroup", strconv.FormatUint(id, 10), qgroupError(err))
}

// StaleQgroups lists the qgroups whose subvolumes are gone, in order. Kernels before about 6.10
// leave them behind. In simple mode all kernels do, while other subvolumes use the data that the
// subvolume wrote.
//
// It costs a commit. The kernel creates the qgroup of a new subvolume before its root, both in one
// transaction. So a qgroup is stale only if it has no root after the next commit. More qgroups may
// become stale later if dropping is true. The kernel has then not cleaned up all destroyed
// subvolumes. That takes minutes, or as long as a file in them is open.
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

// maxLevel0 is the highest ID of the qgroup of a subvolume. The upper 16 bits are the level in the
// hierarchy of qgroups (BTRFS_QGROUP_LEVEL_SHIFT).
const maxLevel0 = 1<<48 - 1

// setInfo reads struct btrfs_qgroup_info_item: generation, rfer, rfer_cmpr, excl, excl_cmpr.
func (q *Qgroup) setInfo(data []byte) {
	q.Referenced, q.Exclusive = field64(data, 8), field64(data, 24)
}

// setLimit reads struct btrfs_qgroup_limit_item: flags, max_rfer, max_excl, rsv_rfer, rsv_excl.
func (q *Qgroup) setLimit(data []byte) {
	if field64(data, 0)&limitMaxReferenced != 0 {
		q.MaxReferenced = field64(data, 8)
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
