package btrfs

import (
	"errors"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

var (
	// ErrRunning means that the requested work, or work that excludes it, is running already.
	ErrRunning = errors.New("it is already running, or other work that excludes it is")
	// ErrCancelled means that the work was cancelled before it was complete.
	ErrCancelled = errors.New("cancelled")
)

// Scrub is the progress of the running or last scrub of one device, and what it found: struct
// btrfs_scrub_progress.
type Scrub struct {
	DataExtents, TreeExtents uint64
	DataBytes, TreeBytes     uint64 // read and compared with their checksums
	ReadErrors               uint64 // the device reported an error
	CsumErrors               uint64 // a checksum did not match
	VerifyErrors             uint64 // a metadata block was invalid
	NoCsum                   uint64 // blocks without a checksum, such as those of NoCOW files
	CsumDiscards             uint64 // checksums without a block
	SuperErrors              uint64 // damaged superblocks
	MallocErrors             uint64
	UncorrectableErrors      uint64 // no good copy existed
	CorrectedErrors          uint64 // repaired from another copy
	LastPhysical             uint64 // bytes from the start of the device that the scrub has finished
	UnverifiedErrors         uint64 // did not occur again on a second read
}

// ScrubState returns the progress of the running scrub of a device, whichever process started it.
func (fs *FS) ScrubState(id uint64) (s Scrub, running bool, err error) {
	args := scrubArgs{DevID: id}
	err = ioctl(fs.dir, iocScrubProgress, unsafe.Pointer(&args))
	if errors.Is(err, unix.ENOTCONN) {
		return Scrub{}, false, nil
	}
	return args.Progress, err == nil, failed("scrub state", strconv.FormatUint(id, 10), err)
}
