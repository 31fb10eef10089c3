package btrfs

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Layouts and numbers are those of linux/btrfs.h (linux-libc-dev). The tests compile that header
// and compare. All structs have explicit sizes and no implicit padding on 64-bit machines.

const (
	maxName          = 255  // BTRFS_VOL_NAME_MAX
	volArgsNameLen   = 4088 // BTRFS_PATH_NAME_MAX + 1
	volArgsV2NameLen = 4040 // BTRFS_SUBVOL_NAME_MAX + 1
	devicePathLen    = 1024 // BTRFS_DEVICE_PATH_NAME_MAX
	inoLookupPathLen = 4080 // BTRFS_INO_LOOKUP_PATH_MAX
)

const (
	subvolReadOnly = 1 << 1 // BTRFS_SUBVOL_RDONLY
	subvolByID     = 1 << 4 // BTRFS_SUBVOL_SPEC_BY_ID, kernel >= 5.7

	quotaCtlEnable       = 1 // BTRFS_QUOTA_CTL_ENABLE
	quotaCtlEnableSimple = 4 // BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA, kernel >= 6.7

	limitMaxReferenced = 1 << 0 // BTRFS_QGROUP_LIMIT_MAX_RFER

	balanceRunning = 1 << 0 // BTRFS_BALANCE_STATE_RUNNING
)

type volArgs struct {
	FD   int64
	Name [volArgsNameLen]byte
}

type volArgsV2 struct {
	FD      int64
	TransID uint64
	Flags   uint64
	_       [4]uint64              // qgroup inheritance, unused: see Snapshot
	Name    [volArgsV2NameLen]byte // with subvolByID, the ID in the first 8 bytes
}

type fsInfoArgs struct {
	MaxID      uint64
	NumDevices uint64
	FSID       [16]byte
	_          [992]byte // sizes, checksums, generation
}

type devInfoArgs struct {
	DevID      uint64
	UUID       [16]byte
	BytesUsed  uint64
	TotalBytes uint64
	_          [379]uint64
	Path       [devicePathLen]byte
}

type devStats struct {
	DevID   uint64
	NrItems uint64
	_       uint64 // flags
	Values  [5]uint64
	_       [121]uint64
}

type scrubArgs struct {
	DevID    uint64
	_        [3]uint64 // range and flags
	Progress Scrub
	_        [109]uint64
}

type balanceArgs struct {
	_     uint64
	State uint64
	_     [3][17]uint64 // filters for data, metadata and system
	Stat  Balance
	_     [72]uint64
}

type spaceArgs struct {
	Slots uint64
	Total uint64
}

type spaceInfo struct {
	Flags uint64
	Total uint64
	Used  uint64
}

type inoLookupArgs struct {
	TreeID   uint64
	ObjectID uint64
	Name     [inoLookupPathLen]byte
}

type subvolInfoArgs struct {
	TreeID     uint64
	Name       [maxName + 1]byte
	ParentID   uint64
	_          [2]uint64 // directory, generation
	Flags      uint64
	UUID       [16]byte
	ParentUUID [16]byte
	_          [22]uint64 // received UUID, transactions, times
}

type quotaCtlArgs struct {
	Cmd    uint64
	Status uint64
}

type quotaRescanArgs struct {
	Flags    uint64
	Progress uint64
	_        [6]uint64
}

type qgroupCreateArgs struct {
	Create   uint64
	QgroupID uint64
}

type qgroupLimitArgs struct {
	QgroupID      uint64
	Flags         uint64
	MaxReferenced uint64
	_             [3]uint64 // other limits
}

type defragRangeArgs struct {
	Start        uint64
	Len          uint64
	_            uint64 // flags
	ExtentThresh uint32
	_            [5]uint32 // compression
}

type searchKey struct {
	TreeID      uint64
	MinObjectID uint64
	MaxObjectID uint64
	MinOffset   uint64
	MaxOffset   uint64
	MinTransID  uint64
	MaxTransID  uint64
	MinType     uint32
	MaxType     uint32
	NrItems     uint32
	_           uint32
	_           [4]uint64
}

type searchHeader struct {
	TransID  uint64
	ObjectID uint64
	Offset   uint64
	Type     uint32
	Len      uint32
}

// searchArgsV2Head is struct btrfs_ioctl_search_args_v2 without its trailing buffer.
type searchArgsV2Head struct {
	Key     searchKey
	BufSize uint64
}

// Ioctl numbers are encoded as in asm-generic/ioctl.h, which amd64, arm64, riscv64 and s390x share.
// powerpc and mips differ.
const (
	dirWrite = 1
	dirRead  = 2

	ioctlMagic = 0x94 // BTRFS_IOCTL_MAGIC
)

const (
	iocSnapDestroy       = dirWrite<<30 | unsafe.Sizeof(volArgs{})<<16 | ioctlMagic<<8 | 15
	iocSubvolCreate      = dirWrite<<30 | unsafe.Sizeof(volArgs{})<<16 | ioctlMagic<<8 | 14
	iocDefragRange       = dirWrite<<30 | unsafe.Sizeof(defragRangeArgs{})<<16 | ioctlMagic<<8 | 16
	iocTreeSearchV2      = (dirRead|dirWrite)<<30 | unsafe.Sizeof(searchArgsV2Head{})<<16 | ioctlMagic<<8 | 17
	iocInoLookup         = (dirRead|dirWrite)<<30 | unsafe.Sizeof(inoLookupArgs{})<<16 | ioctlMagic<<8 | 18
	iocSpaceInfo         = (dirRead|dirWrite)<<30 | unsafe.Sizeof(spaceArgs{})<<16 | ioctlMagic<<8 | 20
	iocWaitSync          = dirWrite<<30 | 8<<16 | ioctlMagic<<8 | 22
	iocStartSync         = dirRead<<30 | 8<<16 | ioctlMagic<<8 | 24
	iocSnapCreateV2      = dirWrite<<30 | unsafe.Sizeof(volArgsV2{})<<16 | ioctlMagic<<8 | 23
	iocSubvolGetFlags    = dirRead<<30 | 8<<16 | ioctlMagic<<8 | 25
	iocSubvolSetFlags    = dirWrite<<30 | 8<<16 | ioctlMagic<<8 | 26
	iocScrubProgress     = (dirRead|dirWrite)<<30 | unsafe.Sizeof(scrubArgs{})<<16 | ioctlMagic<<8 | 29
	iocDevInfo           = (dirRead|dirWrite)<<30 | unsafe.Sizeof(devInfoArgs{})<<16 | ioctlMagic<<8 | 30
	iocFSInfo            = dirRead<<30 | unsafe.Sizeof(fsInfoArgs{})<<16 | ioctlMagic<<8 | 31
	iocBalanceProgress   = dirRead<<30 | unsafe.Sizeof(balanceArgs{})<<16 | ioctlMagic<<8 | 34
	iocQuotaCtl          = (dirRead|dirWrite)<<30 | unsafe.Sizeof(quotaCtlArgs{})<<16 | ioctlMagic<<8 | 40
	iocQgroupCreate      = dirWrite<<30 | unsafe.Sizeof(qgroupCreateArgs{})<<16 | ioctlMagic<<8 | 42
	iocQgroupLimit       = dirRead<<30 | unsafe.Sizeof(qgroupLimitArgs{})<<16 | ioctlMagic<<8 | 43
	iocQuotaRescan       = dirWrite<<30 | unsafe.Sizeof(quotaRescanArgs{})<<16 | ioctlMagic<<8 | 44
	iocQuotaRescanStatus = dirRead<<30 | unsafe.Sizeof(quotaRescanArgs{})<<16 | ioctlMagic<<8 | 45
	iocGetDevStats       = (dirRead|dirWrite)<<30 | unsafe.Sizeof(devStats{})<<16 | ioctlMagic<<8 | 52
	iocGetSubvolInfo     = dirRead<<30 | unsafe.Sizeof(subvolInfoArgs{})<<16 | ioctlMagic<<8 | 60
	iocSnapDestroyV2     = dirWrite<<30 | unsafe.Sizeof(volArgsV2{})<<16 | ioctlMagic<<8 | 63
)

// ioctl calls the kernel on f. A concurrent Close of f waits, so that the descriptor number is not
// reused during the call.
func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	return withFD(f, func(fd int) error {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
		if errno != 0 {
			return errno
		}
		return nil
	})
}

// withFD passes the descriptor of f to call, and keeps it open meanwhile. It repeats a call that a
// signal interrupts. Unlike f.Fd() it does not change the blocking mode of the descriptor.
func withFD(f *os.File, call func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var callErr error
	err = conn.Control(func(fd uintptr) {
		for {
			if callErr = call(int(fd)); !errors.Is(callErr, unix.EINTR) {
				return
			}
		}
	})
	if err != nil {
		return os.ErrClosed // the only possible cause; poll.ErrFileClosing is not exported
	}
	return callErr
}
