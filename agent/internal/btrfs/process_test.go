package btrfs

import (
	"context"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

// A task can have timed out while no agent ran. Its process is ended all the same.
func TestEndWhenTheTimeIsOver(t *testing.T) {
	sleep := exec.Command("sleep", "60")
	assert.NilError(t, sleep.Start())
	process, err := ProcessOf(sleep.Process.Pid)
	assert.NilError(t, err)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	_ = process.End(over, unix.SIGTERM) // which may be over before the process is
	assert.Error(t, sleep.Wait(), "signal: terminated")
}

// A process that its signal does not end is killed.
func TestNextSignal(t *testing.T) {
	assert.Equal(t, nextSignal(unix.SIGINT, time.Now()), unix.SIGINT)
	assert.Equal(t, nextSignal(unix.SIGINT, time.Now().Add(-killAfter)), unix.SIGKILL)
}
