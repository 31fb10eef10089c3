package btrfs

import (
	"errors"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

var (
	// ErrRunning says that the filesystem does what was asked for already, or something that excludes it.
	ErrRunning = errors.New("it is running already, or something that excludes it is")
	// ErrCancelled says that the work was ended before its time.
	ErrCancelled = errors.New("cancelled")
)

// Scrub is how far the scrub of one device has come, or came, and what it found: struct btrfs_scrub_progress.
type Scrub struct {
	DataExtents, TreeExtents uint64
	DataBytes, TreeBytes     uint64 // read and compared with their checksums
	ReadErrors               uint64 // the device failed
	CsumErrors               uint64 // a checksum did not match
	VerifyErrors             uint64 // a metadata block did not make sense
	NoCsum                   uint64 // blocks without a checksum, as those of NoCOW files
	CsumDiscards             uint64 // checksums without a block
	SuperErrors              uint64 // superblocks that are damaged
	MallocErrors             uint64
	UncorrectableErrors      uint64 // there was no good copy
	CorrectedErrors          uint64 // repaired from another copy
	LastPhysical             uint64 // bytes from the device's start, up to where it is done
	UnverifiedErrors         uint64 // went away when they were looked at again
}

// ScrubState says how far the running scrub of a device is, whoever started it.
func (fs *FS) ScrubState(id uint64) (s Scrub, running bool, err error) {
	args := scrubArgs{DevID: id}
	err = ioctl(fs.dir, iocScrubProgress, unsafe.Pointer(&args))
	if errors.Is(err, unix.ENOTCONN) {
		return Scrub{}, false, nil
	}
	return args.Progress, err == nil, failed("scrub state", strconv.FormatUint(id, 10), err)
}
