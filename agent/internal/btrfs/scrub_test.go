package btrfs_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

// The test covers the state of a scrub, and what btrfs-progs records about it.
func TestScrub(t *testing.T) {
	f := newFixture(t, testpool.Options{Mkfs: []string{"-d", "single"}})
	assert.NilError(t, write(f.path("file"), 8*mib))
	f.commit()
	_, err := btrfs.ReadScrubStatus(btrfs.ScrubStatusDir, f.FSID())
	assert.ErrorIs(t, err, os.ErrNotExist)
	t.Cleanup(func() { _ = os.Remove(btrfs.ScrubStatusDir + "/scrub.status." + f.FSID().String()) })

	f.scrub(0)
	runs, err := btrfs.ReadScrubStatus(btrfs.ScrubStatusDir, f.FSID())
	assert.NilError(t, err)
	assert.Equal(t, len(runs), 1)
	assert.Assert(t, runs[0].Complete() && time.Since(runs[0].Started) < time.Hour, "%+v", runs[0])
	assert.Assert(t, runs[0].DataBytes >= 8*mib && runs[0].TreeBytes > 0 && runs[0].UncorrectableErrors == 0, "%+v", runs[0])
	_, running, err := f.ScrubState(1)
	assert.NilError(t, err)
	assert.Assert(t, !running)

	f.pool.Damage(f.path("file"))
	f.scrub(3)
	runs, err = btrfs.ReadScrubStatus(btrfs.ScrubStatusDir, f.FSID())
	assert.NilError(t, err)
	assert.Assert(t, runs[0].Complete() && runs[0].CsumErrors > 0 && runs[0].UncorrectableErrors > 0, "%+v", runs[0])
}

func (f *fixture) scrub(exitCode int) {
	f.t.Helper()
	_, _, err := btrfs.Command{
		Path: btrfs.Program, Args: []string{"scrub", "start", "-B", f.pool.Dir}, Stop: unix.SIGINT, Started: func(int) error { return nil },
	}.Run(f.t.Context())
	assert.Equal(f.t, btrfs.ExitCode(err), exitCode, "%v", err)
}

func TestScrubStatusOfAnInterruptedScrub(t *testing.T) {
	dir, fsid := t.TempDir(), uuid.New()
	text := "scrub status:1\n" + fsid.String() + ":2|data_bytes_scrubbed:5|uncorrectable_errors:2|new:3|t_start:1700000000|t_resumed:0|duration:75|canceled:%d|finished:%d\n"
	for _, c := range []struct {
		cancelled, finished int
		complete            bool
	}{{0, 0, false}, {1, 1, false}, {0, 1, true}} {
		assert.NilError(t, os.WriteFile(filepath.Join(dir, "scrub.status."+fsid.String()), fmt.Appendf(nil, text, c.cancelled, c.finished), 0o600))
		runs, err := btrfs.ReadScrubStatus(dir, fsid)
		assert.NilError(t, err)
		assert.DeepEqual(t, runs, []btrfs.ScrubRun{{
			Device: 2, Started: time.Unix(1700000000, 0), Cancelled: c.cancelled == 1, Finished: c.finished == 1,
			Scrub: btrfs.Scrub{DataBytes: 5, UncorrectableErrors: 2},
		}})
		assert.Equal(t, runs[0].Complete(), c.complete)
	}
}

func TestBalanceState(t *testing.T) {
	f := newFixture(t, testpool.Options{})
	_, running, err := f.BalanceState()
	assert.NilError(t, err)
	assert.Assert(t, !running)
}

// Each process has a separate process group.
func TestCommandHasAGroup(t *testing.T) {
	command := shell("-c", "exit 0")
	command.Started = func(pid int) error {
		group, err := unix.Getpgid(pid)
		assert.Check(t, err)
		assert.Check(t, group == pid)
		return nil
	}
	_, _, err := command.Run(t.Context())
	assert.NilError(t, err)
}

func shell(args ...string) btrfs.Command {
	return btrfs.Command{Path: "/bin/sh", Args: args, Stop: unix.SIGTERM, Started: func(int) error { return nil }}
}

// The error of a failed run contains the output of the program.
func TestCommand(t *testing.T) {
	out, said, err := shell("-c", "echo out; echo $LC_ALL >&2").Run(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, out+said, "out\nC\n")
	_, _, err = shell("-c", "echo why >&2; exit 7").Run(t.Context())
	assert.Error(t, err, "/bin/sh -c echo why >&2; exit 7: exit status 7: why")
	assert.Equal(t, btrfs.ExitCode(err), 7)
	_, _, err = btrfs.Command{Path: "/nowhere/btrfs"}.Run(t.Context())
	assert.ErrorIs(t, err, os.ErrNotExist)
	assert.Equal(t, btrfs.ExitCode(err), -1)
	_, err = btrfs.FindProgram("no-such-program")
	assert.ErrorIs(t, err, exec.ErrNotFound)
}

// The first signal may arrive before the program handles it.
func TestCommandIsStopped(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	command := shell("-c", "n=0; trap 'n=$((n+1))' TERM; while [ $n -lt 3 ]; do sleep 0.01; done; echo $n")
	command.Started = func(int) error {
		cancel()
		return nil
	}
	command.Stop = unix.SIGTERM
	_, _, err := command.Run(ctx)
	if err != nil {
		assert.Equal(t, btrfs.ExitCode(err), -1, "%v", err) // before the script set the trap
	}

	refused := errors.New("refused")
	command = shell("-c", "exec sleep 60")
	command.Started = func(int) error { return refused }
	_, _, err = command.Run(t.Context())
	assert.ErrorIs(t, err, refused)
}

// End ends a process, but not a later process with the same PID.
func TestProcess(t *testing.T) {
	child := exec.Command("sleep", "60")
	child.SysProcAttr = &unix.SysProcAttr{Setpgid: true} // as Command does
	assert.NilError(t, child.Start())
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	t.Cleanup(func() { _ = child.Process.Kill() })
	p, err := btrfs.ProcessOf(child.Process.Pid)
	assert.NilError(t, err)

	another := btrfs.Process{PID: p.PID, Birth: p.Birth + "0"}
	assert.NilError(t, another.End(t.Context(), unix.SIGKILL))
	assert.NilError(t, btrfs.Process{}.End(t.Context(), unix.SIGKILL))
	select {
	case err := <-ended:
		t.Fatalf("the wrong process was ended: %v", err)
	default:
	}
	assert.NilError(t, p.End(t.Context(), unix.SIGTERM))
	assert.ErrorContains(t, <-ended, "terminated")
	assert.NilError(t, p.End(t.Context(), unix.SIGTERM))
}
