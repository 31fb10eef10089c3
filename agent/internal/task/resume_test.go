package task

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// adminScrub is a scrub that an administrator starts with btrfs-progs.
func (f *fixture) adminScrub() *exec.Cmd {
	f.t.Helper()
	progs := exec.Command("btrfs", "scrub", "start", "-B", f.pool.Dir)
	assert.NilError(f.t, progs.Start())
	f.t.Cleanup(func() {
		_ = exec.Command("btrfs", "scrub", "cancel", f.pool.Dir).Run()
		_ = progs.Wait()
	})
	f.waitUntilScrubbing(true)
	return progs
}

// No task ends the scrub of an administrator, however often a tenant tries. That holds even if the
// status file does not show that scrub.
func TestAdministratorsScrubGoesOn(t *testing.T) {
	f := newFixture(t)
	f.slow()
	f.adminScrub()
	for i := range 10 {
		if i == 5 {
			assert.NilError(t, os.Remove(f.statusFile()))
		}
		task := f.start(Spec{Type: "scrub"})
		assert.NilError(t, f.Delete(t.Context(), "a", task.ID))
		assert.Assert(t, f.scrubbing(), "try %d", i)
	}
	task := f.ended(f.start(Spec{Type: "scrub"}).ID)
	assert.Equal(t, task.Status, Failed)
	assert.ErrorContains(t, errors.New(task.Error), "already running")
	f.start(Spec{Type: "scrub"})
	assert.NilError(t, f.close())
	f.open()
	assert.Assert(t, f.scrubbing(), "after a restart of the agent")
}

// The same holds for a balance.
func TestAdministratorsBalanceGoesOn(t *testing.T) {
	f := newFixture(t)
	for i := range 24 {
		f.write(fmt.Sprintf("b%d", i), 24*mib)
	}
	progs := exec.Command("btrfs", "balance", "start", "--full-balance", f.pool.Dir)
	var printed bytes.Buffer
	progs.Stdout, progs.Stderr = &printed, &printed
	assert.NilError(t, progs.Start())
	ended := make(chan error, 1)
	go func() { ended <- progs.Wait() }()
	waitUntilBalancing(t, f.fs, func() bool { return len(ended) > 0 })
	for range 20 {
		task := f.start(Spec{Type: "balance"})
		assert.NilError(t, f.Delete(t.Context(), "a", task.ID))
	}
	assert.NilError(t, <-ended)
	_, err := balanceResult(printed.String())
	assert.NilError(t, err)
}

// waitUntilBalancing returns when the kernel balances, or the balance has ended.
func waitUntilBalancing(t *testing.T, fs *btrfs.FS, ended func() bool) {
	t.Helper()
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		_, running, err := fs.BalanceState()
		if err != nil || running || ended() {
			return poll.Success()
		}
		return poll.Continue("no balance")
	}, poll.WithTimeout(time.Minute), poll.WithDelay(time.Millisecond))
}

// A balance ends when its task is canceled.
func TestCancelBalance(t *testing.T) {
	f := newFixture(t)
	for i := range 24 {
		f.write(fmt.Sprintf("b%d", i), 24*mib)
	}
	task := f.start(Spec{Type: "balance", Options: map[string]string{"usage": "100"}})
	waitUntilBalancing(t, f.fs, func() bool {
		now, err := f.Get("a", task.ID)
		return err != nil || now.Status != Running
	})
	assert.NilError(t, f.Delete(t.Context(), "a", task.ID))
	_, running, err := f.fs.BalanceState()
	assert.NilError(t, err)
	assert.Assert(t, !running)
	ended, err := f.Get("a", task.ID)
	if agentapi.IsCode(err, agentapi.NotFound) {
		t.Skip("the balance had ended before it was cancelled")
	}
	assert.NilError(t, err)
	assert.Assert(t, ended.Status == Cancelled || ended.Status == Completed, "%+v", ended) // completed on a fast disk
}

// An administrator can end the scrub of a task.
func TestCancelledByAnAdministrator(t *testing.T) {
	f := newFixture(t)
	f.slow()
	task := f.start(Spec{Type: "scrub"})
	f.waitUntilScrubbing(true)
	assert.NilError(t, exec.Command("btrfs", "scrub", "cancel", f.pool.Dir).Run())
	ended := f.ended(task.ID)
	assert.Equal(t, ended.Status, Cancelled, ended.Error)
}

// noted waits until the program has recorded some progress of a scrub.
func (f *fixture) noted() uint64 {
	f.t.Helper()
	var bytes uint64
	poll.WaitOn(f.t, func(poll.LogT) poll.Result {
		runs, err := btrfs.ReadScrubStatus(btrfs.ScrubStatusDir, f.fs.FSID())
		if err != nil || len(runs) == 0 || runs[0].DataBytes == 0 {
			return poll.Continue("%v %v", runs, err)
		}
		bytes = runs[0].DataBytes
		return poll.Success()
	}, poll.WithTimeout(time.Minute), poll.WithDelay(100*time.Millisecond))
	return bytes
}

// A restart of the agent interrupts a scrub, which then continues at the same position. The task
// keeps its ID. Its tenant can cancel it, and other tenants cannot.
func TestScrubIsResumed(t *testing.T) {
	f := newFixture(t)
	f.slow()
	task := f.start(Spec{Type: "scrub", Options: map[string]string{"readonly": "true"}, Labels: map[string]string{"why": "monthly"}, Timeout: time.Hour})
	f.noted()
	assert.NilError(t, f.close())
	_, err := os.Stat(f.record)
	assert.NilError(t, err)

	f.open()
	assert.Assert(t, f.noted() > 0)
	f.waitUntilScrubbing(true)
	now, err := f.Get("a", task.ID)
	assert.NilError(t, err)
	assert.Equal(t, now.Status, Running, now.Error)
	assert.Assert(t, now.Progress > 0)
	assert.DeepEqual(t, now.Spec, task.Spec)
	assert.DeepEqual(t, now.StartedAt, task.StartedAt)
	_, err = f.Start("b", Spec{Type: "scrub"})
	assert.Equal(t, agentapi.CodeOf(err), agentapi.Busy)
	assert.NilError(t, f.Delete(t.Context(), "b", task.ID))
	assert.Assert(t, f.scrubbing())
	status, err := exec.Command("btrfs", "scrub", "status", f.pool.Dir).CombinedOutput()
	assert.NilError(t, err, "%s", status)
	assert.Assert(t, strings.Contains(string(status), "Scrub resumed:"), "%s", status)

	f.setSpeed("0")
	assert.NilError(t, f.close())
	f.open()
	ended := f.ended(task.ID)
	assert.Equal(t, ended.Status, Completed, ended.Error)
	assert.Assert(t, ended.Result["data_bytes_scrubbed"] >= 64*mib, "%v", ended.Result)
	_, err = os.Stat(f.record)
	assert.ErrorIs(t, err, os.ErrNotExist)
	assert.NilError(t, f.close())
	f.open()
	tasks, err := f.List("a", nil)
	assert.NilError(t, err)
	assert.Equal(t, len(tasks), 0, "an ended task is not begun again")
}

// killAgent runs an agent that starts a task, kills it, and returns the ID of the task.
func (f *fixture) killAgent(kind string, ready func()) string {
	f.t.Helper()
	assert.NilError(f.t, f.close())
	defer f.open()
	agent := exec.Command(os.Args[0], "agent", f.pool.Dir, kind)
	out, err := agent.StdoutPipe()
	assert.NilError(f.t, err)
	assert.NilError(f.t, agent.Start())
	f.t.Cleanup(func() {
		_ = agent.Process.Kill() // already killed, unless the test failed earlier
		_ = agent.Wait()
	})
	id, err := bufio.NewReader(out).ReadString('\n')
	assert.NilError(f.t, err)
	f.Manager = &Manager{} // without a filesystem: see ready
	ready()
	assert.NilError(f.t, agent.Process.Kill())
	assert.ErrorContains(f.t, agent.Wait(), "killed")
	return strings.TrimSpace(id)
}

// The process of a killed agent continues. The next agent ends it, and resumes its work.
func TestKilledAgent(t *testing.T) {
	f := newFixture(t)
	f.slow()
	fs, err := btrfs.Open(f.pool.Dir)
	assert.NilError(t, err)
	defer fs.Close()
	id := f.killAgent("scrub", func() {
		poll.WaitOn(t, func(poll.LogT) poll.Result {
			if _, running, err := fs.ScrubState(1); err != nil || !running {
				return poll.Continue("no scrub: %v", err)
			}
			return poll.Success()
		}, poll.WithTimeout(time.Minute), poll.WithDelay(20*time.Millisecond))
	})
	now, err := f.Get("a", id)
	assert.NilError(t, err)
	assert.Equal(t, now.Status, Running, now.Error)
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		f.mu.Lock()
		defer f.mu.Unlock()
		if e := f.find("a", id); e == nil || e.process.PID == 0 || !isChild(e.process.PID) {
			return poll.Continue("the scrub is not of this agent yet")
		}
		return poll.Success()
	}, poll.WithTimeout(time.Minute), poll.WithDelay(20*time.Millisecond))
	f.waitUntilScrubbing(true)
	assert.NilError(t, f.Delete(t.Context(), "a", id))
	assert.Assert(t, !f.scrubbing())
	ended, err := f.Get("a", id)
	assert.NilError(t, err)
	assert.Equal(t, ended.Status, Cancelled, ended.Error)
}

func isChild(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err == nil && strings.Contains(string(stat), fmt.Sprintf("PPid:\t%d\n", os.Getpid()))
}

// The kernel continues a balance after a crash of the host. A resumed balance shows as running
// meanwhile. It does not end that balance, and then does the remaining work.
func TestBalanceIsResumed(t *testing.T) {
	f := newFixture(t)
	for i := range 24 {
		f.write(fmt.Sprintf("b%d", i), 24*mib)
	}
	f.mu.Lock()
	for i, kind := range []string{"balance", "scrub"} {
		f.tasks = append(f.tasks, &entry{
			tenant: "a", task: Task{ID: fmt.Sprint(i), Status: Running, Spec: Spec{Type: kind}, StartedAt: now()}, cancel: func(error) {},
		})
	}
	assert.NilError(t, f.save())
	f.mu.Unlock()
	assert.NilError(t, f.close())
	kernels := exec.Command("btrfs", "balance", "start", "--full-balance", f.pool.Dir)
	assert.NilError(t, kernels.Start())
	done := make(chan error, 1)
	go func() { done <- kernels.Wait() }()
	fs, err := btrfs.Open(f.pool.Dir)
	assert.NilError(t, err)
	defer fs.Close()
	waitUntilBalancing(t, fs, func() bool { return len(done) > 0 })
	f.open()
	now, err := f.Get("a", "0")
	assert.NilError(t, err)
	assert.Equal(t, now.Status, Running, now.Error)
	assert.NilError(t, <-done)
	ended := f.ended("0")
	assert.Equal(t, ended.Status, Completed, ended.Error)
	assert.Assert(t, ended.Result["considered"] > 0, "%v", ended.Result)

	// A scrub without recorded progress starts again.
	ended = f.ended("1")
	assert.Equal(t, ended.Status, Completed, ended.Error)
	assert.Assert(t, ended.Result["data_bytes_scrubbed"] > 0, "%v", ended.Result)
}

// The findings of a scrub are recorded before the next scrub replaces its result.
func TestFindingsAreNotedBeforeAScrub(t *testing.T) {
	f := newFixture(t)
	var found []uint64
	f.config.NoteFindings = func() {
		runs, _ := btrfs.ReadScrubStatus(btrfs.ScrubStatusDir, f.fs.FSID())
		for _, run := range runs {
			found = append(found, min(run.UncorrectableErrors, 1))
		}
	}
	file := f.write("file", 4*mib)
	f.slow()
	f.setSpeed("0")
	f.pool.Damage(file)
	assert.Equal(t, f.ended(f.start(Spec{Type: "scrub"}).ID).Status, Completed)
	f.setSpeed("1M")
	assert.NilError(t, os.Remove(file))
	assert.NilError(t, f.fs.Commit(t.Context()))
	task := f.start(Spec{Type: "scrub"})
	f.waitUntilScrubbing(true)
	assert.NilError(t, f.Delete(t.Context(), "a", task.ID))
	assert.DeepEqual(t, found, []uint64{1, 1, 0})
}

// Without the program, tasks that need it are refused, and the error says what to install.
func TestWithoutBtrfsProgs(t *testing.T) {
	f := newFixture(t)
	f.config.Program = "/nowhere/btrfs"
	for _, kind := range []string{"scrub", "balance"} {
		_, err := f.Start("a", Spec{Type: kind})
		assert.Equal(t, agentapi.CodeOf(err), agentapi.Unsupported)
		assert.ErrorContains(t, err, "install btrfs-progs")
	}
	f.volume("v")
	assert.NilError(t, os.WriteFile(filepath.Join(f.pool.Dir, "a", "v", "data", "file"), make([]byte, mib), 0o600))
	assert.Equal(t, f.ended(f.start(defragmentV).ID).Status, Completed)
}

// The error contains the output of a failed program.
func TestProgramFails(t *testing.T) {
	f := newFixture(t)
	program := filepath.Join(t.TempDir(), "btrfs")
	assert.NilError(t, os.WriteFile(program, []byte("#!/bin/sh\necho \"ERROR: $LC_ALL no\" >&2\nexit 1\n"), 0o700))
	f.config.Program = program
	for _, kind := range []string{"scrub", "balance"} {
		ended := f.ended(f.start(Spec{Type: kind}).ID)
		assert.Equal(t, ended.Status, Failed)
		assert.ErrorContains(t, errors.New(ended.Error), "exit status 1: ERROR: C no")
	}
}

func TestClosed(t *testing.T) {
	closed := &Manager{config: configOf(t.TempDir()), closed: true}
	closed.config.Program = btrfs.Program
	_, err := closed.Start("a", Spec{Type: "scrub"})
	assert.Equal(t, agentapi.CodeOf(err), agentapi.Unavailable)
}

func TestBalanceResult(t *testing.T) {
	for printed, status := range map[string]error{
		"Done, had to relocate 2 out of 7 chunks\n":                           nil,
		"balance canceled by user\nDone, had to relocate 2 out of 7 chunks\n": btrfs.ErrCancelled,
	} {
		result, err := balanceResult(printed)
		assert.Equal(t, err, status)
		assert.DeepEqual(t, result, Result{"relocated": 2, "considered": 7})
	}
	_, err := balanceResult("balance paused by user\n")
	assert.ErrorContains(t, err, "btrfs balance resume")
	_, err = balanceResult("")
	assert.ErrorContains(t, err, "no result")
}
