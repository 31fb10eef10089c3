package btrfs

import (
	"unsafe"
)

// Usage is the space of one type of block groups, in bytes before redundancy.
type Usage struct {
	TotalBytes uint64 // allocated
	UsedBytes  uint64 // the used part of TotalBytes
}

// Space describes how full a filesystem is. Sizes are in bytes. "Raw" sizes count every redundant
// copy. All other sizes count data once.
type Space struct {
	TotalBytes uint64 // capacity if all space were data, as df shows
	UsedBytes  uint64 // TotalBytes minus free space, as df shows
	// FreeBytes is how much data can still be written. It is 0 if there is no room for the metadata
	// that any write needs, even if df shows free space.
	FreeBytes        uint64
	RawBytes         uint64 // size of the devices
	RawUsedBytes     uint64 // used by data and metadata
	UnallocatedBytes uint64 // raw, not allocated to block groups
	Data             Usage
	Metadata         Usage
	System           Usage
	GlobalReserve    Usage   // part of Metadata that the kernel reserves, so that deletes work on a full filesystem
	DataRatio        float64 // raw bytes per byte of new data: 1 for single or RAID0, 2 for RAID1 or DUP
}

// Block group flags of linux/btrfs_tree.h.
const (
	blockGroupData     = 1 << 0
	blockGroupSystem   = 1 << 1
	blockGroupMetadata = 1 << 2
	blockGroupRAID1    = 1 << 4
	blockGroupDup      = 1 << 5
	blockGroupRAID10   = 1 << 6
	blockGroupRAID5    = 1 << 7
	blockGroupRAID6    = 1 << 8
	blockGroupRAID1C3  = 1 << 9
	blockGroupRAID1C4  = 1 << 10
	globalReserve      = 1 << 49 // BTRFS_SPACE_INFO_GLOBAL_RSV
)

// minMetadataChunk is the smallest chunk that btrfs allocates for metadata. If less space than this
// is unallocated for each copy, metadata cannot grow. On small filesystems, btrfs allocates
// metadata chunks in stripes of at least 16 MiB (decide_stripe_size in fs/btrfs/volumes.c).
const minMetadataChunk = 16 << 20

// Space reads how full the filesystem is.
func (fs *FS) Space() (Space, error) {
	space, err := fs.space()
	return space, failed("space", fs.dir.Name(), err)
}

func (fs *FS) space() (Space, error) {
	stat, err := statfs(fs.dir)
	if err != nil {
		return Space{}, err
	}
	blockSize := uint64(stat.Bsize)
	space := Space{
		TotalBytes: stat.Blocks * blockSize,
		UsedBytes:  (stat.Blocks - stat.Bfree) * blockSize,
		FreeBytes:  stat.Bavail * blockSize,
		DataRatio:  1,
	}
	devices, err := fs.rawDevices()
	if err != nil {
		return Space{}, err
	}
	for _, device := range devices {
		space.RawBytes += device.TotalBytes
		if device.TotalBytes > device.BytesUsed {
			space.UnallocatedBytes += device.TotalBytes - device.BytesUsed
		}
	}
	groups, err := fs.spaceInfo()
	if err != nil {
		return Space{}, err
	}
	metadataRatio := 1.0
	for _, group := range groups {
		ratio := redundancy(group.Flags, len(devices))
		if group.Flags&globalReserve == 0 {
			space.RawUsedBytes += uint64(float64(group.Used) * ratio)
		}
		switch {
		case group.Flags&globalReserve != 0:
			space.GlobalReserve.add(group)
		case group.Flags&blockGroupData != 0: // mixed block groups also hold metadata
			space.Data.add(group)
			space.DataRatio = ratio
		case group.Flags&blockGroupMetadata != 0:
			space.Metadata.add(group)
			metadataRatio = ratio
		case group.Flags&blockGroupSystem != 0:
			space.System.add(group)
		}
	}
	if space.metadataExhausted(metadataRatio) {
		space.FreeBytes = 0
	}
	return space, nil
}

// metadataMargin is what the smallest changes reserve while they run. btrfs_statfs
// (fs/btrfs/super.c) uses the same value. It also reports no free space then, but only after an
// allocation has failed.
const metadataMargin = 4 << 20

// metadataExhausted reports whether the allocated metadata space is full, apart from the reserve of
// the kernel, and cannot grow.
func (s *Space) metadataExhausted(ratio float64) bool {
	if s.Metadata.TotalBytes == 0 { // mixed block groups
		return false
	}
	canGrow := float64(s.UnallocatedBytes) >= ratio*minMetadataChunk
	return !canGrow && s.Metadata.UsedBytes+s.GlobalReserve.TotalBytes+metadataMargin >= s.Metadata.TotalBytes
}

func (u *Usage) add(group spaceInfo) {
	u.TotalBytes += group.Total
	u.UsedBytes += group.Used
}

// spaceInfo calls the kernel twice: for the number of entries, then for the entries. The kernel may
// create block groups of a new type between the calls, and omits entries that do not fit. So the
// second call has spare room.
func (fs *FS) spaceInfo() ([]spaceInfo, error) {
	const spare = 4
	count := spaceArgs{}
	if err := ioctl(fs.dir, iocSpaceInfo, unsafe.Pointer(&count)); err != nil {
		return nil, err
	}
	const headSize, entrySize = unsafe.Sizeof(spaceArgs{}), unsafe.Sizeof(spaceInfo{})
	slots := count.Total + spare
	buffer := make([]uint64, (uint64(headSize)+slots*uint64(entrySize))/8)
	head := (*spaceArgs)(unsafe.Pointer(&buffer[0]))
	head.Slots = slots
	if err := ioctl(fs.dir, iocSpaceInfo, unsafe.Pointer(&buffer[0])); err != nil {
		return nil, err
	}
	entries := unsafe.Slice((*spaceInfo)(unsafe.Pointer(&buffer[headSize/8])), slots)
	return entries[:min(head.Total, slots)], nil
}

// redundancy returns how many raw bytes a byte takes in a block group with these flags. For parity
// profiles it assumes the widest stripe, which uses all devices.
func redundancy(flags uint64, devices int) float64 {
	n := float64(devices)
	switch {
	case flags&(blockGroupRAID1|blockGroupDup|blockGroupRAID10) != 0:
		return 2
	case flags&blockGroupRAID1C3 != 0:
		return 3
	case flags&blockGroupRAID1C4 != 0:
		return 4
	case flags&blockGroupRAID5 != 0 && devices > 1:
		return n / (n - 1)
	case flags&blockGroupRAID6 != 0 && devices > 2:
		return n / (n - 2)
	}
	return 1
}
