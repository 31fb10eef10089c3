package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// takeChannels loads the NFS server and opens the channels. No other process replies to upcalls,
// and no other engine does until the lock is closed.
func takeChannels(ctx context.Context, config Config) (lock *os.File, opened *channels, err error) {
	if err := loadServer(ctx, config); err != nil {
		return nil, nil, err
	}
	lock, err = lockChannels(ctx, config)
	if err != nil {
		return nil, nil, err
	}
	if err = waitUntilFree(ctx, config.ProcRoot); err == nil {
		opened, err = openChannels(config.ProcRoot)
	}
	if err != nil {
		return nil, nil, errors.Join(err, lock.Close())
	}
	return lock, opened, nil
}

// lockChannels excludes other engines of this network namespace until the file is closed. Each
// namespace has its own channels. Without the lock, two engines that check for other holders and
// then open the channels may both succeed.
func lockChannels(ctx context.Context, config Config) (*os.File, error) {
	network, err := os.Readlink(filepath.Join(config.ProcRoot, "self/ns/net"))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", nfs.ErrUnavailable, err)
	}
	if err := os.MkdirAll(config.LockFolder, 0o755); err != nil {
		return nil, fmt.Errorf("%w: %w", nfs.ErrUnavailable, err)
	}
	name := "channels-" + notDigits.ReplaceAllString(network, "") + ".lock" // net:[4026531840], namespaces(7)
	file, err := os.OpenFile(filepath.Join(config.LockFolder, name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", nfs.ErrUnavailable, err)
	}
	err = waitForLock(ctx, file, config.ProcRoot)
	if err == nil {
		err = file.Truncate(0)
	}
	if err == nil {
		_, err = fmt.Fprintln(file, os.Getpid())
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

var notDigits = regexp.MustCompile(`\D+`)

func waitForLock(ctx context.Context, file *os.File, procRoot string) error {
	return waitForHolder(ctx, func() (*ChannelsBusyError, error) {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return lockedBy(file, procRoot), nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: lock %s: %w", nfs.ErrUnavailable, file.Name(), err)
		}
		return nil, nil
	})
}

// lockedBy returns the holder of the lock, from the process ID in the file.
func lockedBy(file *os.File, procRoot string) *ChannelsBusyError {
	busy := &ChannelsBusyError{Comm: agentComm, Engine: true}
	text := make([]byte, 20)
	n, _ := file.ReadAt(text, 0) // the file is shorter than text
	busy.PID, _ = strconv.Atoi(strings.TrimSpace(string(text[:n])))
	if comm, err := os.ReadFile(filepath.Join(procRoot, strconv.Itoa(busy.PID), "comm")); err == nil {
		busy.Comm = strings.TrimSpace(string(comm))
	}
	return busy
}
