package task

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/labels"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// kept is how many ended tasks of a tenant the agent remembers.
const kept = 100

// Config configures a Manager.
type Config struct {
	Program        string       // of btrfs-progs; "" means btrfs.Program
	Dir            string       // a directory on the filesystem
	ScrubStatusDir string       // "" means btrfs.ScrubStatusDir; also contains the record of running tasks
	Ready          func() error // nil while changes are accepted, and otherwise the error of a start

	// Defragmentable returns the path, relative to Dir, of the data of the volume. It fails if
	// others share the data, unless force is true.
	Defragmentable func(tenant, volume string, force bool) (path string, err error)

	// NoteFindings records the findings of the last scrub. The manager calls it before and after
	// each scrub of a task. It may be nil.
	NoteFindings func()

	Logger *slog.Logger
}

// Manager runs the tasks of all tenants. It is safe for concurrent use.
type Manager struct {
	config Config
	fs     *btrfs.FS
	record string // file that names the running tasks

	mu      sync.Mutex
	closed  bool
	tasks   []*entry // in the order of their starts
	running sync.WaitGroup
}

type entry struct {
	tenant  string
	task    Task
	resumed bool
	process btrfs.Process // process that works for the task, if any
	cancel  context.CancelCauseFunc
	ended   chan struct{}
}

// errStopped ends the tasks of an agent that stops. The next agent resumes them.
var errStopped = errors.New("the agent stops")

// New opens the filesystem and resumes the tasks that were running when the last agent ended. Close
// closes the filesystem.
func New(config Config) (*Manager, error) {
	if config.Program == "" {
		config.Program = btrfs.Program
	}
	if config.ScrubStatusDir == "" {
		config.ScrubStatusDir = btrfs.ScrubStatusDir
	}
	if config.NoteFindings == nil {
		config.NoteFindings = func() {}
	}
	fs, err := btrfs.Open(config.Dir)
	if err != nil {
		return nil, err
	}
	m := &Manager{config: config, fs: fs, record: recordFile(config, fs.FSID())}
	m.resume()
	return m, nil
}

// Start starts a task. It returns Busy while a task of the type runs for any tenant.
func (m *Manager) Start(tenant string, s Spec) (Task, error) {
	if err := s.validate(); err != nil {
		return Task{}, err
	}
	if err := m.config.Ready(); err != nil {
		return Task{}, err
	}
	if _, err := m.prepare(tenant, s); err != nil {
		return Task{}, err
	}
	id, err := uuid.NewV7() // sorts by time
	if err != nil {
		return Task{}, err
	}
	s.Options, s.Labels = maps.Clone(s.Options), maps.Clone(s.Labels)
	e := &entry{tenant: tenant, task: Task{Spec: s, ID: id.String(), Status: Running, StartedAt: now()}}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return Task{}, agentapi.Errorf(agentapi.Unavailable, "the agent is shutting down")
	}
	for _, other := range m.tasks {
		if other.task.Status == Running && other.task.Type == s.Type {
			return Task{}, agentapi.Errorf(agentapi.Busy, "a %s is already running: only one can run at a time", s.Type)
		}
	}
	m.tasks = append(m.tasks, e)
	if err := m.save(); err != nil {
		m.tasks = m.tasks[:len(m.tasks)-1]
		return Task{}, agentapi.Errorf(agentapi.Unavailable, "record the task for the next agent: %w", err)
	}
	m.forgetOldest(tenant)
	m.launch(e)
	return e.task, nil
}

// prepare collects the inputs of the task.
func (m *Manager) prepare(tenant string, s Spec) (j job, err error) {
	j = job{
		fs: m.fs, dir: m.config.Dir, statusDir: m.config.ScrubStatusDir, options: s.Options, noteFindings: m.config.NoteFindings,
	}
	if kinds[s.Type].program {
		if j.program, err = btrfs.FindProgram(m.config.Program); err != nil {
			return job{}, agentapi.Errorf(agentapi.Unsupported,
				"find the btrfs program, which a %s needs: %w: install btrfs-progs on the storage host", s.Type, err)
		}
	}
	if kinds[s.Type].ofVolume {
		path, err := m.config.Defragmentable(tenant, s.Options["volume"], s.Options["force"] == "true")
		if err != nil {
			return job{}, err
		}
		j.options = map[string]string{"volume": path}
	}
	return j, nil
}

// launch starts the work of an entry.
func (m *Manager) launch(e *entry) {
	ctx, cancel := context.WithCancelCause(context.Background())
	e.cancel, e.ended = cancel, make(chan struct{})
	m.running.Go(func() { m.follow(ctx, e) })
}

func (m *Manager) forgetOldest(tenant string) {
	ended := 0
	for _, e := range slices.Backward(m.tasks) {
		if e.tenant == tenant && e.task.Status != Running {
			ended++
		}
	}
	m.tasks = slices.DeleteFunc(m.tasks, func(e *entry) bool {
		if e.tenant != tenant || e.task.Status == Running || ended <= kept {
			return false
		}
		ended--
		return true
	})
}

// follow runs the task until it ends.
func (m *Manager) follow(ctx context.Context, e *entry) {
	defer close(e.ended)
	defer e.cancel(nil)
	if e.task.Timeout > 0 {
		var end context.CancelFunc
		ctx, end = context.WithDeadline(ctx, e.task.StartedAt.Add(e.task.Timeout))
		defer end()
	}
	log := m.config.Logger.With("task", e.task.ID, "type", e.task.Type, "tenant", e.tenant)
	log.Info("started task", "resumed", e.resumed, "options", e.task.Options)
	result, err := m.work(ctx, e)

	m.mu.Lock()
	defer m.mu.Unlock()
	cancelled := errors.Is(err, btrfs.ErrCancelled)
	if cancelled && errors.Is(context.Cause(ctx), errStopped) {
		log.Info("interrupted task until the next start of the agent")
		return
	}
	e.task.EndedAt, e.task.Result = now(), result
	switch {
	case cancelled && errors.Is(ctx.Err(), context.DeadlineExceeded):
		e.task.Status, e.task.Error = Failed, "the task reached its timeout of "+e.task.Timeout.String()
	case cancelled:
		e.task.Status = Cancelled // by an administrator, or by Delete
	case err != nil:
		e.task.Status, e.task.Error = Failed, err.Error()
	default:
		e.task.Status, e.task.Progress = Completed, 1
	}
	log.Info("ended task", "status", e.task.Status, "took", e.task.EndedAt.Sub(e.task.StartedAt), "error", e.task.Error, "result", e.task.Result)
	if err := m.save(); err != nil {
		log.Error("failed to record the end of a task", "error", err)
	}
}

// work does the work of the task. It first ends a process that an earlier agent has left. That
// process is not a child of this agent, so its result is unavailable.
func (m *Manager) work(ctx context.Context, e *entry) (Result, error) {
	kind := kinds[e.task.Type]
	err := e.process.End(ctx, kind.stop)
	if ctx.Err() != nil {
		return nil, btrfs.ErrCancelled
	}
	if err != nil {
		return nil, fmt.Errorf("end the process of the last agent: %w", err)
	}
	j, err := m.prepare(e.tenant, e.task.Spec)
	if err != nil {
		return nil, err
	}
	j.begun, j.resumed = e.task.StartedAt, e.resumed
	j.started = func(pid int) error { return m.noteProcess(e, pid) }
	j.report = func(done, all float64) { m.report(e, done, all) }
	return kind.do(ctx, j)
}

// noteProcess records the process that works for the task, so that the next agent finds it.
func (m *Manager) noteProcess(e *entry, pid int) (err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e.process, err = btrfs.ProcessOf(pid); err != nil {
		return err
	}
	return m.save()
}

func (m *Manager) report(e *entry, done, all float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e.report(done, all)
}

// report raises the progress. Data that clients write during the work increases the total.
func (e *entry) report(done, all float64) {
	if all > 0 {
		e.task.Progress = max(e.task.Progress, min(done/all, 1))
	}
}

// List returns the tasks of the tenant that match the label terms, newest first.
func (m *Manager) List(tenant string, terms []string) ([]Task, error) {
	selector, err := labels.ParseSelector(terms)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	tasks := []Task{}
	for _, e := range slices.Backward(m.tasks) {
		if e.tenant == tenant && selector.Matches(labels.Of(e.task.Labels)) {
			tasks = append(tasks, m.present(e))
		}
	}
	return tasks, nil
}

// Get returns NotFound if the tenant has no such task.
func (m *Manager) Get(tenant, id string) (Task, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.find(tenant, id)
	if e == nil {
		return Task{}, agentapi.Errorf(agentapi.NotFound, "task %.64q does not exist", id)
	}
	return m.present(e), nil
}

func (m *Manager) find(tenant, id string) *entry {
	i := slices.IndexFunc(m.tasks, func(e *entry) bool { return e.tenant == tenant && e.task.ID == id })
	if i < 0 {
		return nil
	}
	return m.tasks[i]
}

// present updates the progress of a running task.
func (m *Manager) present(e *entry) Task {
	progress := kinds[e.task.Type].progress
	if e.task.Status == Running && progress != nil {
		e.report(progress(job{fs: m.fs, statusDir: m.config.ScrubStatusDir, begun: e.task.StartedAt}))
	}
	return e.task
}

// Delete cancels a running task, which stays in the list as cancelled, and removes an ended one. It
// returns when the task has ended, or when ctx ends. In the second case the task still ends. If the
// tenant has no such task, it does nothing.
func (m *Manager) Delete(ctx context.Context, tenant, id string) error {
	m.mu.Lock()
	e := m.find(tenant, id)
	if e == nil {
		m.mu.Unlock()
		return nil
	}
	if e.task.Status != Running {
		m.tasks = slices.DeleteFunc(m.tasks, func(other *entry) bool { return other == e })
		m.mu.Unlock()
		return nil
	}
	m.mu.Unlock()
	e.cancel(nil)
	select {
	case <-e.ended:
		return nil
	case <-ctx.Done():
		return agentapi.Errorf(agentapi.Unavailable, "cancelling the %s takes longer: it has not ended yet", e.task.Type)
	}
}

// Close interrupts running tasks, until the next New resumes them. It waits until they have ended
// or ctx ends.
func (m *Manager) Close(ctx context.Context) error {
	m.mu.Lock()
	m.closed = true
	for _, e := range m.tasks {
		if e.task.Status == Running {
			e.cancel(errStopped)
		}
	}
	m.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		m.running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return m.fs.Close()
	case <-ctx.Done():
		return errors.New("wait for the end of the tasks: they are still running")
	}
}

// now returns the time in whole milliseconds UTC, like the rest of the API.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }
