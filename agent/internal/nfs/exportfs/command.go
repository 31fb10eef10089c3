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

// CommandError is a failed run of exportfs. It is nfs.ErrUnsupported if a retry cannot help,
// otherwise nfs.ErrUnavailable.
type CommandError struct {
	Args     []string // at most the first eight
	ExitCode int      // -1 when it did not start or was killed
	Stderr   string   // at most the first 4 KiB
	Err      error
}

func (e *CommandError) Error() string {
	message := fmt.Sprintf("%s: %v", strings.Join(e.Args, " "), e.Err)
	if e.Stderr != "" {
		message += ": " + e.Stderr
	}
	return message
}

func (e *CommandError) Unwrap() []error { return []error{e.Err, e.kind()} }

func (e *CommandError) kind() error {
	// nfs-utils before 2.6.4 do not support xprtsec, and print this message.
	if errors.Is(e.Err, fs.ErrNotExist) || errors.Is(e.Err, fs.ErrPermission) ||
		strings.Contains(e.Stderr, "unknown keyword") {
		return nfs.ErrUnsupported
	}
	return nfs.ErrUnavailable
}

const timePerChange = 10 * time.Millisecond

// run runs exportfs once, in the C locale and without the agent's environment.
func (e *Engine) run(ctx context.Context, args ...string) (string, error) {
	return e.runMany(ctx, len(args), args...)
}

// runMany is run with a timeout for that many changes.
func (e *Engine) runMany(ctx context.Context, changes int, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, e.config.RunTimeout+time.Duration(changes)*timePerChange)
	defer cancel()
	var stdout, stderr strings.Builder
	cmd := exec.CommandContext(ctx, e.config.Command, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// Wait sends SIGKILL later. exportfs replaces its table with one rename, so it is safe to kill
	// at any time.
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if err == nil {
		return stdout.String(), nil
	}
	return stdout.String(), &CommandError{
		Args:     append([]string{e.config.Command}, args[:min(len(args), 7)]...),
		ExitCode: cmd.ProcessState.ExitCode(),
		Stderr:   shorten(strings.TrimSpace(stderr.String()), 4<<10),
		Err:      err,
	}
}

func shorten(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return text[:limit] + "…"
}
