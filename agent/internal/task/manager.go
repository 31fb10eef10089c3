package task

import (
	"context"
	"errors"
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

// kept is how many ended tasks of a tenant are remembered.
const kept = 100

// Config of a Manager.
type Config struct {
	Program        []string     // a program that calls Main with further arguments
	Dir            string       // on the filesystem
	ScrubStatusDir string       // "" is btrfs.ScrubStatusDir
	Ready          func() error // nil while there may be changes, else what a start fails with

	// Defragmentable gives the path, below Dir, of the volume's data. It fails where others share
	// the data, unless force is true.
	Defragmentable func(tenant, volume string, force bool) (path string, err error)

	Logger *slog.Logger
}

// Manager has the tasks of all tenants. It is safe for concurrent use.
type Manager struct {
	config Config
	fs     *btrfs.FS

	mu      sync.Mutex
	closed  bool
	tasks   []*entry // in the order of their starts
	running sync.WaitGroup
}

type entry struct {
	tenant string
	task   Task
	cancel context.CancelFunc
	ended  chan struct{}
}

// New opens the filesystem. Close gives it back.
func New(config Config) (*Manager, error) {
	if config.ScrubStatusDir == "" {
		config.ScrubStatusDir = btrfs.ScrubStatusDir
	}
	fs, err := btrfs.Open(config.Dir)
	if err != nil {
		return nil, err
	}
	return &Manager{config: config, fs: fs}, nil
}

// Start begins a task. It is Busy while one of the type runs, whosever it is.
func (m *Manager) Start(tenant string, s Spec) (Task, error) {
	if err := s.validate(); err != nil {
		return Task{}, err
	}
	if err := m.config.Ready(); err != nil {
		return Task{}, err
	}
	work := s
	if kinds[s.Type].ofVolume {
		path, err := m.config.Defragmentable(tenant, s.Options["volume"], s.Options["force"] == "true")
		if err != nil {
			return Task{}, err
		}
		work.Options = map[string]string{"volume": path}
	}
	id, err := uuid.NewV7() // which sorts by time
	if err != nil {
		return Task{}, err
	}
	s.Options, s.Labels = maps.Clone(s.Options), maps.Clone(s.Labels)
	ctx, cancel := context.WithCancel(context.Background())
	e := &entry{
		tenant: tenant, cancel: cancel, ended: make(chan struct{}),
		task: Task{Spec: s, ID: id.String(), Status: Running, StartedAt: now()},
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return Task{}, agentapi.Errorf(agentapi.Unavailable, "the agent is shutting down")
	}
	for _, other := range m.tasks {
		if other.task.Status == Running && other.task.Type == s.Type {
			return Task{}, agentapi.Errorf(agentapi.Busy, "a %s is running: there can be one at a time", s.Type)
		}
	}
	m.tasks = append(m.tasks, e)
	m.forgetOldest(tenant)
	m.running.Go(func() { m.follow(ctx, e, work) })
	return e.task, nil
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

// follow runs the task to its end. work is what the process is told to do.
func (m *Manager) follow(ctx context.Context, e *entry, work Spec) {
	defer close(e.ended)
	defer e.cancel()
	if e.task.Timeout > 0 {
		var end context.CancelFunc
		ctx, end = context.WithTimeout(ctx, e.task.Timeout)
		defer end()
	}
	log := m.config.Logger.With("task", e.task.ID, "type", e.task.Type, "tenant", e.tenant)
	log.Info("task started", "options", e.task.Options)
	o, err := m.run(ctx, work, func(progress float64) {
		m.mu.Lock()
		defer m.mu.Unlock()
		e.task.Progress = max(e.task.Progress, progress)
	})

	m.mu.Lock()
	defer m.mu.Unlock()
	e.task.EndedAt, e.task.Result = now(), o.Result
	switch {
	case err != nil:
		e.task.Status, e.task.Error = Failed, err.Error()
	case o.Cancelled && errors.Is(ctx.Err(), context.DeadlineExceeded):
		e.task.Status, e.task.Error = Failed, "cancelled after "+e.task.Timeout.String()+", its timeout"
	case o.Cancelled:
		e.task.Status = Cancelled // by somebody on the host, if not by us
	case o.Error != "":
		e.task.Status, e.task.Error = Failed, o.Error
	default:
		e.task.Status, e.task.Progress = Completed, 1
	}
	log.Info("task ended", "status", e.task.Status, "took", e.task.EndedAt.Sub(e.task.StartedAt), "error", e.task.Error, "result", e.task.Result)
}

// List gives the tenant's tasks that the label terms match, the newest first.
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

// Get is NotFound where the tenant has no such task.
func (m *Manager) Get(tenant, id string) (Task, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.find(tenant, id)
	if e == nil {
		return Task{}, agentapi.Errorf(agentapi.NotFound, "there is no task %.64q", id)
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

// present asks the kernel how far a running task is.
func (m *Manager) present(e *entry) Task {
	if e.task.Status == Running && kinds[e.task.Type].progress != nil {
		if done, all := kinds[e.task.Type].progress(m.fs); all > 0 {
			e.task.Progress = max(e.task.Progress, min(done/all, 1)) // writes meanwhile add to what is to be done
		}
	}
	return e.task
}

// Delete cancels a running task, which stays in the list as cancelled, and forgets one that has ended. It returns when the task has
// ended, or with ctx, after which the task still ends. Where the tenant has no such task, nothing happens.
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
	e.cancel()
	select {
	case <-e.ended:
		return nil
	case <-ctx.Done():
		return agentapi.Errorf(agentapi.Unavailable, "the %s is being cancelled and has not ended yet", e.task.Type)
	}
}

// Close cancels what runs and waits for its end, or for ctx's.
func (m *Manager) Close(ctx context.Context) error {
	m.mu.Lock()
	m.closed = true
	for _, e := range m.tasks {
		e.cancel()
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
		return errors.New("tasks are still under way")
	}
}

// now in whole milliseconds UTC, as the rest of the API says times.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }
