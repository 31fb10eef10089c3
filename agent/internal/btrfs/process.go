package btrfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process identifies a process permanently. The kernel can reuse a PID alone for another process.
type Process struct {
	PID   int    `json:"pid"`
	Birth string `json:"birth"` // the boot ID of the host and the start time since boot, proc(5)
}

// ProcessOf returns the process that currently has the PID.
func ProcessOf(pid int) (Process, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Process{}, err
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Process{}, err
	}
	// The name in parentheses may contain any characters. After it, the start time is the 20th
	// field.
	_, rest, found := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " ")
	fields := strings.Fields(rest)
	const starttime = 19
	if !found || len(fields) <= starttime {
		return Process{}, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	return Process{PID: pid, Birth: strings.TrimSpace(string(boot)) + " " + fields[starttime]}, nil
}

// End sends the signal to the process and its children until the process has ended or ctx ends. It
// sends the signal at least once. After killAfter it sends SIGKILL. A process that no longer exists
// has ended.
func (p Process) End(ctx context.Context, signal syscall.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) || p.PID == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	now, err := ProcessOf(p.PID) // while the descriptor is open, the kernel does not reuse the PID
	if err != nil || now != p {
		return nil
	}
	signalGroup(p.PID, signal, nil, func(wait time.Duration) bool {
		ended, pollErr := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(wait/time.Millisecond))
		if ended > 0 {
			return true
		}
		err = ctx.Err()
		if pollErr != nil && !errors.Is(pollErr, unix.EINTR) {
			err = pollErr
		}
		return err != nil
	})
	return err
}
