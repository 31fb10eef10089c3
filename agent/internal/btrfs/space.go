package btrfs

import (
	"unsafe"
)

// Usage is what one kind of block groups takes, in bytes before redundancy.
type Usage struct {
	TotalBytes uint64 // allocated
	UsedBytes  uint64 // of those, in use
}

// Space is how full a filesystem is. Sizes are in bytes. "Raw" counts every copy that redundancy
// makes; everything else counts data once.
type Space struct {
	TotalBytes uint64 // what the filesystem could hold if all of it were data, as df shows
	UsedBytes  uint64 // TotalBytes less what is free, as df shows
	// FreeBytes is how much data can still be written. It is 0, whatever df says, once there is no room
	// for the metadata that any write needs.
	FreeBytes        uint64
	RawBytes         uint64 // the devices' sizes
	RawUsedBytes     uint64 // in use, data and metadata
	UnallocatedBytes uint64 // raw, what no block group has taken yet
	Data             Usage
	Metadata         Usage
	System           Usage
	GlobalReserve    Usage   // kept within Metadata for the kernel itself, so that deleting works on a full filesystem
	DataRatio        float64 // raw bytes that a byte of new data takes: 1 single or RAID0, 2 RAID1 or DUP
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

// minMetadataChunk is the smallest piece that new metadata is allocated in; with less unallocated
// than this for each copy, metadata cannot grow (btrfs allocates chunks in stripes of at least 16 MiB
// for metadata on small filesystems, decide_stripe_size in fs/btrfs/volumes.c).
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
		case group.Flags&blockGroupData != 0: // mixed groups hold metadata as well
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

// metadataMargin is what the smallest changes reserve for the time they run. btrfs_statfs (fs/btrfs/super.c)
// uses the same; it shows no free space either then, but only from when an allocation has failed.
const metadataMargin = 4 << 20

// metadataExhausted says whether the metadata that is allocated is full but for the kernel's reserve,
// and cannot grow.
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

// spaceInfo asks twice: how many entries there are, then for them. Block groups of a new kind may be
// made between the two; the kernel then leaves out what does not fit, so there is some room to spare.
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

// redundancy is how many raw bytes a byte takes in a block group of these flags. For parity, the
// widest stripe is assumed, which uses all devices.
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
