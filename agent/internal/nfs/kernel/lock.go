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

// lockChannels keeps out other engines of this network namespace, which has its own channels, until the file is closed. Of two
// that look for each other's channels and then open them, both may get in.
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

// waitForLock gives up as soon as waitUntilFree would: who ends, ends soon.
func waitForLock(ctx context.Context, file *os.File, procRoot string) error {
	for deadline := time.Now().Add(transient); ; {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil && !errors.Is(err, unix.EWOULDBLOCK):
			return fmt.Errorf("%w: locking %s: %w", nfs.ErrUnavailable, file.Name(), err)
		case err == nil:
			return nil
		}
		if time.Now().After(deadline) || pause(ctx) != nil {
			return lockedBy(file, procRoot)
		}
	}
}

// lockedBy says whose lock it is, as far as that wrote so.
func lockedBy(file *os.File, procRoot string) error {
	busy := &ChannelsBusyError{Comm: agentComm}
	text := make([]byte, 20)
	n, _ := file.ReadAt(text, 0) // at its end the file is shorter
	busy.PID, _ = strconv.Atoi(strings.TrimSpace(string(text[:n])))
	if comm, err := os.ReadFile(filepath.Join(procRoot, strconv.Itoa(busy.PID), "comm")); err == nil {
		busy.Comm = strings.TrimSpace(string(comm))
	}
	busy.Engine = true
	return busy
}
