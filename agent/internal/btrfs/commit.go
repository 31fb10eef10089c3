package btrfs

import (
	"context"
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Commit makes durable every change to the trees that was finished before the call: subvolumes and
// snapshots made or destroyed, files made, renamed and removed, modes, owners, xattrs, quota limits,
// and the content of files that FlushFile was called on.
//
// It does not write out file data that still waits in the page cache, of anybody: that is what makes
// it cheap beside syncfs while clients write. A file that was written but not flushed has its name
// after a power cut, and no content.
//
// Callers that wait at the same time share transactions, so n concurrent calls cost about two commits,
// not n. An error means that nothing is known to be durable; if the filesystem has turned itself
// read-only it is EROFS. The kernel cannot be told to give up: when ctx ends first, Commit returns
// ctx's error and the commit goes on behind it.
func (fs *FS) Commit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return failed("commit", "", err)
	}
	if ctx.Done() == nil {
		return failed("commit", "", fs.commit())
	}
	done := make(chan error, 1)
	go func() { done <- fs.commit() }()
	select {
	case err := <-done:
		return failed("commit", "", err)
	case <-ctx.Done():
		return failed("commit", "", ctx.Err())
	}
}

// commit asks for the commit of the transaction that is running now, and waits until its superblocks
// are on disk. START_SYNC attaches to the running transaction or, if there is none, waits for the one
// that is being committed (btrfs_attach_transaction_barrier in fs/btrfs/transaction.c).
func (fs *FS) commit() error {
	var transaction uint64
	if err := ioctl(fs.dir, iocStartSync, unsafe.Pointer(&transaction)); err != nil {
		return err
	}
	if err := ioctl(fs.dir, iocWaitSync, unsafe.Pointer(&transaction)); err != nil {
		return err
	}
	return fs.checkNotAborted()
}

// checkNotAborted tells a commit from an abort. WAIT_SYNC returned 0 for aborted transactions until
// Linux 6.6 ("btrfs: check if the transaction was aborted at btrfs_wait_for_commit()", bf7ecbe98750,
// also in the stable series from 4.19 on). An abort turns the filesystem read-only before it wakes
// those who wait, so this check sees it on every kernel.
func (fs *FS) checkNotAborted() error {
	readOnly, err := fs.ReadOnly()
	if err != nil {
		return err
	}
	if readOnly {
		return errors.Join(errors.New("the filesystem is read-only"), unix.EROFS)
	}
	return nil
}
