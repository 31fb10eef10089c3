package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/openat2"
)

const (
	// maxDepth limits how many directories are open at the same time, each with a descriptor.
	maxDepth = 500
	// namesAtOnce limits how many names of a directory are in memory.
	namesAtOnce = 1000
	// maxExtent is the length of the longest extent (BTRFS_MAX_EXTENT_SIZE). An extent counts until
	// all of it is rewritten.
	maxExtent = 128 << 20
	// commitEvery is how much is written between two commits. A commit frees old extents.
	commitEvery = 64 << 20
	// statBlock is the unit of st_blocks (stat(2)).
	statBlock = 512
)

// defragmentation rewrites the files of one volume. Clients can change the volume at any time. So
// it uses descriptors, follows no symbolic link, enters no other subvolume, and opens only
// directories and regular files.
type defragmentation struct {
	fs        *btrfs.FS
	root      *os.File
	id        uint64 // of the subvolume of the volume
	dev       uint64 // of that subvolume, too
	cancelled func() bool
	report    func(done, all float64)

	done, all   float64 // bytes
	uncommitted int64   // bytes, too
	result      Result
}

// withoutRoom names the number of skipped files in a result. The limit of the volume leaves no room
// for a second copy of these files.
const withoutRoom = "without_room"

// defragment runs the job. Option "volume" is the path of the volume relative to the directory of
// the job.
func defragment(ctx context.Context, j job) (Result, error) {
	root, err := openat2.OpenDir(j.fs.File(), j.options["volume"])
	if err != nil {
		return nil, err
	}
	defer root.Close()
	info, err := btrfs.Subvolume(root)
	if err != nil {
		return nil, err
	}
	stat, err := statOf(root)
	if err != nil {
		return nil, err
	}
	d := &defragmentation{
		fs: j.fs, root: root, id: info.ID, dev: stat.Dev, cancelled: func() bool { return ctx.Err() != nil }, report: j.report,
		result: Result{"files": 0, "bytes": 0, "skipped": 0, withoutRoom: 0},
	}
	err = d.walk(root, 0, func(_ *os.File, size float64) error {
		d.all += size
		return nil
	})
	if err != nil {
		return d.result, err
	}
	d.result["skipped"] = 0
	err = d.walk(root, 0, d.file)
	if n := d.result[withoutRoom]; err == nil && n > 0 {
		err = fmt.Errorf("rewrite %d files: the limit of the volume leaves no room for a second copy: grow the volume, or raise its limit with size_limit while the task runs", n)
	}
	return d.result, errors.Join(err, d.fs.Commit(context.Background()))
}

func statOf(f *os.File) (stat unix.Stat_t, err error) {
	return stat, unix.Fstat(int(f.Fd()), &stat)
}

// walk calls visit for the regular files of a directory and its subdirectories.
func (d *defragmentation) walk(dir *os.File, depth int, visit func(f *os.File, size float64) error) error {
	again, err := openat2.OpenDir(dir, ".")
	if err != nil {
		return err
	}
	defer again.Close()
	for {
		names, err := again.Readdirnames(namesAtOnce)
		for _, name := range names {
			if err := d.visit(dir, name, depth, visit); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (d *defragmentation) visit(dir *os.File, name string, depth int, visit func(f *os.File, size float64) error) error {
	if d.cancelled() {
		return btrfs.ErrCancelled
	}
	sub, err := openat2.OpenDir(dir, name)
	if err == nil {
		defer sub.Close()
		return d.enter(sub, depth+1, visit)
	}
	f, err := openat2.OpenFile(dir, name)
	if err != nil { // it is gone, or not a regular file
		return nil // clients change the volume during the walk
	}
	defer f.Close()
	stat, err := statOf(f)
	if err != nil {
		return err
	}
	return visit(f, float64(stat.Blocks)*statBlock)
}

// enter skips nested subvolumes, because they have other limits and snapshots.
func (d *defragmentation) enter(dir *os.File, depth int, visit func(f *os.File, size float64) error) error {
	stat, err := statOf(dir)
	if err != nil {
		return err
	}
	if stat.Dev != d.dev || depth > maxDepth {
		d.result["skipped"]++
		return nil
	}
	return d.walk(dir, depth, visit)
}

// file rewrites one file, except its holes.
func (d *defragmentation) file(f *os.File, size float64) error {
	info, err := btrfs.Subvolume(d.root)
	if err != nil {
		return err
	}
	if info.ParentID == 0 {
		return errors.New("the volume was deleted")
	}
	room, err := d.hasRoom(int64(size))
	if err != nil {
		return err
	}
	before := d.done
	d.done += size
	if !room {
		d.result[withoutRoom]++
		return nil
	}
	for at := int64(0); ; {
		data, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // no more data
			break
		}
		if err != nil {
			return err
		}
		hole, err := f.Seek(data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		at = min(hole, data+btrfs.DefragCluster)
		err = d.part(f, data, at-data)
		if errors.Is(err, unix.ETXTBSY) || errors.Is(err, unix.EPERM) {
			d.result["skipped"]++
			return nil
		}
		if err != nil {
			return err
		}
		d.result["bytes"] += at - data
		before += float64(at - data)
		d.report(min(before, d.done), d.all)
	}
	d.result["files"]++
	return f.Sync()
}

// hasRoom reports whether the limit leaves room for the part of a file that counts twice during the
// rewrite. Without room, the volume would be full after the attempt.
func (d *defragmentation) hasRoom(size int64) (bool, error) {
	need := size
	if size > maxExtent {
		need = maxExtent + commitEvery
	}
	group, err := d.fs.Qgroup(d.id)
	if errors.Is(err, btrfs.ErrQuotaDisabled) || errors.Is(err, btrfs.ErrNoQgroup) {
		return true, nil
	}
	if err != nil || group.MaxReferenced == 0 {
		return err == nil, err
	}
	if int64(group.Referenced)+d.uncommitted+need <= int64(group.MaxReferenced) {
		return true, nil
	}
	if err := d.commit(); err != nil {
		return false, err
	}
	group, err = d.fs.Qgroup(d.id)
	return int64(group.Referenced)+need <= int64(group.MaxReferenced), err
}

// part rewrites one part. Old extents count until the next commit, so if the limit is reached, a
// commit may make room.
func (d *defragmentation) part(f *os.File, start, length int64) error {
	if d.cancelled() {
		return btrfs.ErrCancelled
	}
	err := btrfs.DefragmentRange(f, uint64(start), uint64(length))
	if errors.Is(err, unix.EDQUOT) {
		if err := errors.Join(f.Sync(), d.commit()); err != nil {
			return err
		}
		err = btrfs.DefragmentRange(f, uint64(start), uint64(length))
	}
	d.uncommitted += length
	if err != nil || d.uncommitted < commitEvery {
		return err
	}
	return errors.Join(f.Sync(), d.commit())
}

func (d *defragmentation) commit() error {
	d.uncommitted = 0
	return d.fs.Commit(context.Background())
}
