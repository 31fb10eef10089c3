package crash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// commitTime limits how long the agent may take to commit clients' changes. After a slow commit, as
// on a busy machine, the agent waits for up to 30 s.
const commitTime = 2 * time.Minute

// lateKernelCommit prevents the kernel from making the commit that the agent has to make.
const lateKernelCommit = "commit=300" // seconds

// generation returns the number of the open transaction, or of the last one.
func (m *machine) generation() (uint64, error) {
	id, err := filesystemID(m.lab.Pool)
	if err != nil {
		return 0, err
	}
	content, err := os.ReadFile(filepath.Join("/sys/fs/btrfs", id, "generation"))
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(content)), 10, 64)
}

// awaitCommit returns when a transaction is durable. It does not commit it: see WAIT_SYNC in
// fs/btrfs/ioctl.c.
func (m *machine) awaitCommit(ctx context.Context, generation uint64) error {
	pool, err := os.Open(m.lab.Pool)
	if err != nil {
		return err
	}
	defer pool.Close()
	done := make(chan error, 1)
	go func() { done <- waitSync(pool, generation) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(commitTime):
		err = fmt.Errorf("the agent has not committed for %v what clients have changed", commitTime)
	}
	// The pool cannot be unmounted, and this process cannot end, while a thread waits for a commit.
	return errors.Join(err, unix.Syncfs(int(pool.Fd())), <-done)
}

func waitSync(pool *os.File, generation uint64) error {
	const waitSync = 1<<30 | 8<<16 | 0x94<<8 | 22 // BTRFS_IOC_WAIT_SYNC in linux/btrfs.h
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, pool.Fd(), waitSync, uintptr(unsafe.Pointer(&generation)))
		if errno == 0 {
			return nil
		}
		if errno != unix.EINTR {
			return fmt.Errorf("wait for a commit: %w", errno)
		}
	}
}
