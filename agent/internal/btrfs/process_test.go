package btrfs

import (
	"context"
	"io"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"
)

// A task can time out while no agent runs. End still ends its process, and the children of a
// script.
func TestEndWhenTheTimeIsOver(t *testing.T) {
	script := exec.Command("sh", "-c", "sleep 60 & echo; wait")
	script.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	output, err := script.StdoutPipe()
	assert.NilError(t, err)
	assert.NilError(t, script.Start())
	_, err = output.Read(make([]byte, 1)) // the script has started its child
	assert.NilError(t, err)
	process, err := ProcessOf(script.Process.Pid)
	assert.NilError(t, err)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	_ = process.End(over, unix.SIGTERM) // ctx may end before the process does
	begin := time.Now()
	_, err = io.ReadAll(output) // returns when no process has the pipe open
	assert.NilError(t, err)
	assert.Assert(t, time.Since(begin) < 30*time.Second, "the child went on")
	assert.Error(t, script.Wait(), "signal: terminated")
}

// Run also ends the children of a command, because the program may be a script.
func TestRunEndsChildren(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ready := filepath.Join(t.TempDir(), "ready")
	begin := time.Now()
	_, _, err := Command{
		Path: "/bin/sh", Args: []string{"-c", "sleep 60 & mkdir " + ready + "; wait"}, Stop: unix.SIGTERM,
		Started: func(int) error {
			poll.WaitOn(t, poll.FileExists(ready))
			cancel()
			return nil
		},
	}.Run(ctx)
	assert.ErrorContains(t, err, "signal: terminated")
	assert.Assert(t, time.Since(begin) < 30*time.Second, "the child went on")
}

// A process that ignores its signal is killed.
func TestNextSignal(t *testing.T) {
	assert.Equal(t, nextSignal(unix.SIGINT, time.Now()), unix.SIGINT)
	assert.Equal(t, nextSignal(unix.SIGINT, time.Now().Add(-killAfter)), unix.SIGKILL)
}
