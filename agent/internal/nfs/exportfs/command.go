package exportfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

const timePerChange = 10 * time.Millisecond

// run runs exportfs once, in the C locale and without the agent's environment. The error is
// nfs.ErrUnsupported if a retry cannot help, otherwise nfs.ErrUnavailable.
func (e *Engine) run(ctx context.Context, args ...string) (string, error) {
	return e.runMany(ctx, len(args), args...)
}

// runMany is run with a timeout for that many changes.
func (e *Engine) runMany(ctx context.Context, changes int, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, e.config.RunTimeout+time.Duration(changes)*timePerChange)
	defer cancel()
	var stderr strings.Builder
	cmd := exec.CommandContext(ctx, e.config.Command, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.Dir = "/"
	cmd.Stderr = &stderr
	// Wait sends SIGKILL later. exportfs replaces its table with one rename, so it is safe to kill
	// at any time.
	cmd.WaitDelay = 5 * time.Second
	stdout, err := cmd.Output()
	if err == nil {
		return string(stdout), nil
	}
	kind := nfs.ErrUnavailable
	// A retry cannot help. nfs-utils before 2.6.4 do not support xprtsec, and print the message.
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || strings.Contains(stderr.String(), "unknown keyword") {
		kind = nfs.ErrUnsupported
	}
	said := strings.TrimSpace(stderr.String())
	if said != "" {
		err = fmt.Errorf("%w: %.4096s", err, said)
	}
	return "", fmt.Errorf("%w: %s %s: %w", kind, e.config.Command, strings.Join(args[:min(len(args), 7)], " "), err)
}
