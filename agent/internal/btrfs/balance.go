package btrfs

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Balance is the progress of a balance, in block groups.
type Balance struct {
	Expected   uint64 // block groups to rewrite
	Considered uint64 // block groups examined so far
	Completed  uint64 // block groups rewritten so far
}

// BalanceState returns the progress of the running balance, whichever process started it.
func (fs *FS) BalanceState() (b Balance, running bool, err error) {
	var args balanceArgs
	err = ioctl(fs.dir, iocBalanceProgress, unsafe.Pointer(&args))
	if errors.Is(err, unix.ENOTCONN) {
		return Balance{}, false, nil
	}
	return args.Stat, err == nil && args.State&balanceRunning != 0, failed("balance state", "", err)
}
