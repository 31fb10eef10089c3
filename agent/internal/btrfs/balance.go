package btrfs

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Balance is how far a balance has come, in block groups.
type Balance struct {
	Expected   uint64 // that will be rewritten
	Considered uint64 // that were looked at
	Completed  uint64 // that were rewritten
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
