package btrfs

import (
	"errors"
	"math"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// FlushFile moves the content of a newly written file out of the page cache, so that the next
// Commit or Snapshot makes it durable.
//
// btrfs stores small files inline in the tree. For these files, writeback into the running
// transaction is enough. It takes microseconds and does not write to the device. FlushFile calls
// fsync for larger files. Their extents enter the tree only after their data is on the device, some
// time after writeback has ended, so a commit could come between the two.
//
// FlushFile does not work for files that are overwritten in place. Write a new file, flush it and
// rename it.
func FlushFile(f *os.File) error {
	return failed("flush", f.Name(), flushFile(f))
}

func flushFile(f *os.File) error {
	// A file that fills more than one block is never inline (can_cow_file_range_inline in
	// fs/btrfs/inode.c). A block has at least 4 KiB.
	const maxInline = 4096
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() <= maxInline {
		if err := writeOut(f); err != nil {
			return err
		}
		if inline, err := storedInline(f, info.Size()); err == nil && inline {
			return nil
		}
	}
	return f.Sync()
}

// writeOut starts writeback of f and waits for it, twice. Compression hands pages to a worker, and
// the first pass returns before the worker has taken the pages. The second pass waits for the page
// locks that the worker holds. The kernel does the same in btrfs_fdatawrite_range
// (fs/btrfs/file.c).
func writeOut(f *os.File) error {
	const all = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	return withFD(f, func(fd int) error {
		return errors.Join(unix.SyncFileRange(fd, 0, 0, all), unix.SyncFileRange(fd, 0, 0, all))
	})
}

// fiemap is struct fiemap of linux/fiemap.h with room for two extents, one more than an inline file
// has.
type fiemap struct {
	_             uint64 // start
	Length        uint64
	_             uint32 // flags
	MappedExtents uint32
	ExtentCount   uint32
	_             uint32
	Extents       [2]fiemapExtent
}

type fiemapExtent struct {
	_     [5]uint64
	Flags uint32
	_     [3]uint32
}

const (
	iocFiemap = (dirRead|dirWrite)<<30 | 32<<16 | 'f'<<8 | 11 // FS_IOC_FIEMAP of linux/fs.h

	fiemapDelayed = 0x4   // FIEMAP_EXTENT_DELALLOC
	fiemapInline  = 0x200 // FIEMAP_EXTENT_DATA_INLINE
)

// storedInline reports whether all of f is inline in the tree.
func storedInline(f *os.File, size int64) (bool, error) {
	m := fiemap{Length: math.MaxUint64, ExtentCount: 2}
	if err := ioctl(f, iocFiemap, unsafe.Pointer(&m)); err != nil {
		return false, err
	}
	if size == 0 {
		return m.MappedExtents == 0, nil
	}
	flags := m.Extents[0].Flags
	return m.MappedExtents == 1 && flags&fiemapInline != 0 && flags&fiemapDelayed == 0, nil
}
