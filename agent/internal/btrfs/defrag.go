package btrfs

import (
	"os"
	"unsafe"
)

// DefragCluster is how much the kernel takes at once (CLUSTER_SIZE in fs/btrfs/defrag.c). It
// hides an error in a longer range where it has written a part of that.
const DefragCluster = 256 << 10

// DefragmentRange writes a part of a regular file again, of at most DefragCluster bytes, so
// that with its neighbours it lies in few extents. The data is in the page cache when it
// returns. What the file shares with snapshots, clones and reflinks it then has for itself. An
// old extent is freed with the commit after the last of its blocks is written again. Errors are
// unix.EDQUOT where the subvolume's limit has no room, unix.ENOSPC, unix.EROFS, and
// unix.ETXTBSY for a swap file. The file need not be open for writing: CAP_SYS_ADMIN is enough.
func DefragmentRange(f *os.File, start, length uint64) error {
	const longest = 32 << 20 // extents up to this are joined, as by btrfs-filesystem(8)
	args := defragRangeArgs{Start: start, Len: length, ExtentThresh: longest}
	return failed("defragment", f.Name(), ioctl(f, iocDefragRange, unsafe.Pointer(&args)))
}
