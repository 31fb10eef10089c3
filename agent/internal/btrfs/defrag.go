package btrfs

import (
	"os"
	"unsafe"
)

// DefragCluster is how many bytes the kernel defragments at once (CLUSTER_SIZE in
// fs/btrfs/defrag.c). In a longer range the kernel hides an error if it has rewritten a part of the
// range.
const DefragCluster = 256 << 10

// DefragmentRange rewrites a range of a regular file, at most DefragCluster bytes, so that the
// range and its neighbors occupy few extents. When it returns, the data is in the page cache. The
// file no longer shares the range with snapshots, clones and reflinks. The kernel frees an old
// extent with the commit after the last of its blocks was rewritten. Errors are unix.EDQUOT if the
// limit of the subvolume leaves no room, unix.ENOSPC, unix.EROFS, and unix.ETXTBSY for a swap file.
// The file need not be open for writing: CAP_SYS_ADMIN is enough.
func DefragmentRange(f *os.File, start, length uint64) error {
	const longest = 32 << 20 // the kernel joins extents up to this size, as btrfs-filesystem(8) requests
	args := defragRangeArgs{Start: start, Len: length, ExtentThresh: longest}
	return failed("defragment", f.Name(), ioctl(f, iocDefragRange, unsafe.Pointer(&args)))
}
