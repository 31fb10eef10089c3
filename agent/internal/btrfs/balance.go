package btrfs

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Balance is how far a balance has come, in block groups.
type Balance struct {
	Expected   uint64 // that will be written anew
	Considered uint64 // that were looked at
	Completed  uint64 // that were written anew
}

// BalanceData writes the contents of data block groups that are at most usage per cent full into others, which gives back
// what they took: to metadata, for one. It needs one unallocated block group, and is ErrRunning beside another balance or a change of devices.
// It returns when the kernel is done. After a crash the kernel goes on with it at the next mount.
func (fs *FS) BalanceData(usage int) (Balance, error) {
	args := balanceArgs{Flags: balanceData}
	args.Data.Flags, args.Data.Usage = balanceUsage, uint64(usage)
	err := ioctl(fs.dir, iocBalanceV2, unsafe.Pointer(&args))
	return args.Stat, failed("balance", "", longRunning(err))
}

// BalanceState says how far the running balance is, whoever started it.
func (fs *FS) BalanceState() (b Balance, running bool, err error) {
	var args balanceArgs
	err = ioctl(fs.dir, iocBalanceProgress, unsafe.Pointer(&args))
	if errors.Is(err, unix.ENOTCONN) {
		return Balance{}, false, nil
	}
	return args.Stat, err == nil && args.State&balanceRunning != 0, failed("balance state", "", err)
}

// CancelBalance ends the balance, whoever started it, after the block group that it is at. Where none runs, nothing happens.
func (fs *FS) CancelBalance() error {
	var err error
	closed := withFD(fs.dir, func(fd uintptr) { err = unix.IoctlSetInt(int(fd), uint(iocBalanceCtl), balanceCancel) })
	if errors.Is(err, unix.ENOTCONN) {
		err = nil
	}
	return failed("cancel balance", "", errors.Join(closed, err))
}
