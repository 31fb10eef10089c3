package task

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

const mib = 1 << 20

// The test program also runs as an agent that tests kill.
func TestMain(m *testing.M) {
	if len(os.Args) > 3 && os.Args[1] == "agent" {
		exit(workUntilKilled(os.Args[2], os.Args[3]))
	}
	os.Exit(m.Run())
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func workUntilKilled(dir, kind string) error {
	m, err := New(configOf(dir))
	if err != nil {
		return err
	}
	started, err := m.Start("a", Spec{Type: kind})
	if err != nil {
		return err
	}
	fmt.Println(started.ID)
	select {}
}

func configOf(dir string) Config {
	return Config{Dir: dir, Ready: func() error { return nil }, Logger: slog.New(slog.DiscardHandler)}
}

type fixture struct {
	*Manager
	t    *testing.T
	pool *testpool.Pool
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, pool: testpool.New(t, testpool.Options{Mkfs: []string{"-d", "single"}})}
	f.open()
	t.Cleanup(func() {
		assert.Check(t, f.close())
		notes, err := filepath.Glob(btrfs.ScrubStatusDir + "/*" + f.fs.FSID().String() + "*")
		assert.Check(t, err)
		for _, note := range notes {
			_ = os.Remove(note)
		}
	})
	return f
}

// open starts an agent, and close stops it in order.
func (f *fixture) open() {
	f.t.Helper()
	var err error
	f.Manager, err = New(configOf(f.pool.Dir))
	assert.NilError(f.t, err)
}

func (f *fixture) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return f.Close(ctx)
}

// statusFile is where btrfs-scrub(8) writes the results of scrubs.
func (f *fixture) statusFile() string {
	f.t.Helper()
	return btrfs.ScrubStatusDir + "/scrub.status." + f.fs.FSID().String()
}

// write creates a file whose data is on the device.
func (f *fixture) write(name string, size int) string {
	f.t.Helper()
	file, err := os.Create(filepath.Join(f.pool.Dir, name))
	assert.NilError(f.t, err)
	_, err = file.Write(bytes.Repeat([]byte("x"), size))
	assert.NilError(f.t, errors.Join(err, file.Sync(), file.Close()))
	assert.NilError(f.t, f.fs.Commit(f.t.Context())) // scrubs read the last transaction, not the log of an fsync
	return file.Name()
}

// slow makes scrubs take minutes: 64 MiB at 1 MiB/s (Linux 5.14; Documentation: btrfs-scrub(8)).
func (f *fixture) slow() {
	f.t.Helper()
	f.write("big", 64*mib)
	f.setSpeed("1M")
}

// setSpeed limits the speed of scrubs. "0" removes the limit.
func (f *fixture) setSpeed(limit string) {
	f.t.Helper()
	file := fmt.Sprintf("/sys/fs/btrfs/%s/devinfo/1/scrub_speed_max", f.fs.FSID())
	assert.NilError(f.t, os.WriteFile(file, []byte(limit), 0))
}

func (f *fixture) start(s Spec) Task {
	f.t.Helper()
	task, err := f.Start("a", s)
	assert.NilError(f.t, err)
	assert.Equal(f.t, task.Status, Running)
	return task
}

// ended waits until the task has ended.
func (f *fixture) ended(id string) Task {
	f.t.Helper()
	var task Task
	poll.WaitOn(f.t, func(poll.LogT) poll.Result {
		var err error
		if task, err = f.Get("a", id); err != nil {
			return poll.Error(err)
		}
		if task.Status == Running {
			return poll.Continue("%+v", task)
		}
		return poll.Success()
	}, poll.WithTimeout(time.Minute), poll.WithDelay(20*time.Millisecond))
	return task
}

func (f *fixture) scrubbing() bool {
	_, running, err := f.fs.ScrubState(1)
	assert.NilError(f.t, err)
	return running
}

func (f *fixture) waitUntilScrubbing(want bool) {
	f.t.Helper()
	poll.WaitOn(f.t, func(poll.LogT) poll.Result {
		if f.scrubbing() != want {
			return poll.Continue("scrub running: %t", !want)
		}
		return poll.Success()
	}, poll.WithTimeout(time.Minute), poll.WithDelay(20*time.Millisecond))
}

func TestScrub(t *testing.T) {
	f := newFixture(t)
	file := f.write("file", 4*mib)
	task := f.ended(f.start(Spec{Type: "scrub", Labels: map[string]string{"why": "monthly"}, Timeout: time.Hour}).ID)
	assert.Equal(t, task.Status, Completed, task.Error)
	assert.Equal(t, task.Progress, 1.0)
	assert.Assert(t, task.Result["data_bytes_scrubbed"] >= 4*mib && task.Result["uncorrectable_errors"] == 0, "%v", task.Result)
	assert.Assert(t, !task.EndedAt.Before(task.StartedAt))

	// Health shows the findings of the scrub.
	f.pool.Damage(file)
	task = f.ended(f.start(Spec{Type: "scrub", Options: map[string]string{"readonly": "true"}}).ID)
	assert.Equal(t, task.Status, Completed, task.Error)
	assert.Assert(t, task.Result["uncorrectable_errors"] > 0, "%v", task.Result)
	runs, err := btrfs.ReadScrubStatus(f.config.ScrubStatusDir, f.fs.FSID())
	assert.NilError(t, err)
	assert.Assert(t, len(runs) == 1 && runs[0].UncorrectableErrors > 0 && runs[0].Complete(), "%+v", runs)

	tasks, err := f.List("a", []string{"why=monthly"})
	assert.NilError(t, err)
	assert.Equal(t, len(tasks), 1)
	tasks, err = f.List("a", nil)
	assert.NilError(t, err)
	assert.Equal(t, len(tasks), 2)
	assert.Equal(t, tasks[0].ID, task.ID, "the newest first")
}

// Without a place for the record, health and the next agent would not know about a task.
func TestWithoutAPlaceForNotes(t *testing.T) {
	f := newFixture(t)
	assert.NilError(t, f.close())
	config := configOf(f.pool.Dir)
	config.ScrubStatusDir = "/proc/nowhere"
	var err error
	f.Manager, err = New(config)
	assert.NilError(t, err)
	_, err = f.Start("a", Spec{Type: "scrub"})
	assert.Equal(t, agentapi.CodeOf(err), agentapi.Unavailable)
	assert.ErrorContains(t, err, "record the task")
	tasks, err := f.List("a", nil)
	assert.NilError(t, err)
	assert.Equal(t, len(tasks), 0)
}

func TestBalance(t *testing.T) {
	f := newFixture(t)
	file := f.write("file", 200*mib)
	assert.NilError(t, os.Truncate(file, mib))
	assert.NilError(t, f.fs.Commit(t.Context()))
	task := f.ended(f.start(Spec{Type: "balance", Options: map[string]string{"usage": "50"}}).ID)
	assert.Equal(t, task.Status, Completed, task.Error)
	assert.Assert(t, task.Result["relocated"] > 0 && task.Result["considered"] >= task.Result["relocated"], "%v", task.Result)
}

func TestCancel(t *testing.T) {
	f := newFixture(t)
	f.slow()
	task := f.start(Spec{Type: "scrub"})
	f.waitUntilScrubbing(true)

	// Only one task runs at a time for all tenants. Other tenants cannot see or change it.
	for _, tenant := range []string{"a", "b"} {
		_, err := f.Start(tenant, Spec{Type: "scrub"})
		assert.Equal(t, agentapi.CodeOf(err), agentapi.Busy)
	}
	_, err := f.Get("b", task.ID)
	assert.Equal(t, agentapi.CodeOf(err), agentapi.NotFound)
	tasks, err := f.List("b", nil)
	assert.NilError(t, err)
	assert.Equal(t, len(tasks), 0)
	assert.NilError(t, f.Delete(t.Context(), "b", task.ID))
	assert.Assert(t, f.scrubbing())
	assert.Equal(t, f.ended(f.start(Spec{Type: "balance"}).ID).Status, Completed)

	// The task reports its progress.
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		now, err := f.Get("a", task.ID)
		assert.NilError(t, err)
		if now.Progress == 0 {
			return poll.Continue("no progress")
		}
		return poll.Success()
	}, poll.WithTimeout(time.Minute))

	assert.NilError(t, f.Delete(t.Context(), "a", task.ID))
	assert.Assert(t, !f.scrubbing())
	ended, err := f.Get("a", task.ID)
	assert.NilError(t, err)
	assert.Equal(t, ended.Status, Cancelled)
	assert.Assert(t, ended.Progress < 1)
	assert.NilError(t, f.Delete(t.Context(), "a", task.ID)) // removes the ended task
	_, err = f.Get("a", task.ID)
	assert.Equal(t, agentapi.CodeOf(err), agentapi.NotFound)
	assert.NilError(t, f.Delete(t.Context(), "a", task.ID))
}

// The task is canceled before the process has entered the kernel.
func TestCancelAtOnce(t *testing.T) {
	f := newFixture(t)
	f.slow()
	for range 5 {
		task := f.start(Spec{Type: "scrub"})
		assert.NilError(t, f.Delete(t.Context(), "a", task.ID))
		assert.Equal(t, f.ended(task.ID).Status, Cancelled)
		assert.Assert(t, !f.scrubbing())
	}
}

func TestTimeout(t *testing.T) {
	f := newFixture(t)
	f.slow()
	task := f.ended(f.start(Spec{Type: "scrub", Timeout: 500 * time.Millisecond}).ID)
	assert.Equal(t, task.Status, Failed)
	assert.Equal(t, task.Error, "the task reached its timeout of 500ms")
}

func TestEndedTasksAreForgotten(t *testing.T) {
	f := newFixture(t)
	for i := range kept + 2 {
		for _, tenant := range []string{"a", "b"} {
			f.tasks = append(f.tasks, &entry{
				tenant: tenant, task: Task{ID: fmt.Sprint(i), Status: Completed, Spec: Spec{Type: "scrub"}}, cancel: func(error) {},
			})
		}
	}
	latest := f.ended(f.start(Spec{Type: "balance", Options: map[string]string{"usage": "0"}}).ID)
	assert.Equal(t, latest.Status, Completed, latest.Error)
	tasks, err := f.List("a", nil)
	assert.NilError(t, err)
	assert.Equal(t, len(tasks), kept+1) // the last one was still running when it displaced others
	assert.Equal(t, tasks[0].ID, latest.ID)
	assert.Equal(t, tasks[kept].ID, "2")
	others, err := f.List("b", nil)
	assert.NilError(t, err)
	assert.Equal(t, len(others), kept+2)
}

func TestBadSpecs(t *testing.T) {
	f := newFixture(t)
	for says, s := range map[string]Spec{
		`type must be one of balance, defragment, scrub, got ""`: {},
		`scrub, got "defrag"`:                                   {Type: "defrag"},
		"timeout must not be negative, got -1s":                 {Type: "scrub", Timeout: -time.Second},
		`opts must be one of readonly, got "usage"`:             {Type: "scrub", Options: map[string]string{"usage": "1"}},
		`opts: readonly must be true or false, got "yes"`:       {Type: "scrub", Options: map[string]string{"readonly": "yes"}},
		`opts: usage must be a number from 0 to 100, got "101"`: {Type: "balance", Options: map[string]string{"usage": "101"}},
		`100, got "-1"`: {Type: "balance", Options: map[string]string{"usage": "-1"}},
		`100, got "01"`: {Type: "balance", Options: map[string]string{"usage": "01"}},
		`opts: volume must name a volume, got none`:    {Type: "defragment"},
		`opts: force must be true or false, got "yes"`: {Type: "defragment", Options: map[string]string{"volume": "v", "force": "yes"}},
		`labels: key "A"`: {Type: "scrub", Labels: map[string]string{"A": "b"}},
	} {
		_, err := f.Start("a", s)
		assert.ErrorContains(t, err, says)
		assert.Equal(t, agentapi.CodeOf(err), agentapi.Invalid)
	}
	_, err := f.List("a", []string{"A=b"})
	assert.Equal(t, agentapi.CodeOf(err), agentapi.Invalid)
	f.config.Ready = func() error { return agentapi.Errorf(agentapi.Unavailable, "no pool") }
	_, err = f.Start("a", Spec{Type: "scrub"})
	assert.ErrorContains(t, err, "no pool")
}
