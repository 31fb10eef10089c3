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
	"time"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

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

// waitForLock waits as long as waitUntilFree does.
func waitForLock(ctx context.Context, file *os.File, procRoot string) error {
	for deadline := time.Now().Add(holderTimeout); ; {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil && !errors.Is(err, unix.EWOULDBLOCK):
			return fmt.Errorf("%w: lock %s: %w", nfs.ErrUnavailable, file.Name(), err)
		case err == nil:
			return nil
		}
		if time.Now().After(deadline) || pause(ctx) != nil {
			return lockedBy(file, procRoot)
		}
	}
}

// lockedBy returns the holder of the lock, from the process ID in the file.
func lockedBy(file *os.File, procRoot string) error {
	busy := &ChannelsBusyError{Comm: agentComm}
	text := make([]byte, 20)
	n, _ := file.ReadAt(text, 0) // the file is shorter than text
	busy.PID, _ = strconv.Atoi(strings.TrimSpace(string(text[:n])))
	if comm, err := os.ReadFile(filepath.Join(procRoot, strconv.Itoa(busy.PID), "comm")); err == nil {
		busy.Comm = strings.TrimSpace(string(comm))
	}
	busy.Engine = true
	return busy
}
