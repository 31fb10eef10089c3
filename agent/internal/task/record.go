package task

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"github.com/google/uuid"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
)

// record is a running task in the form in which the next agent finds it.
type record struct {
	Tenant  string        `json:"tenant"`
	Task    Task          `json:"task"`
	Process btrfs.Process `json:"process"`
}

// recordFile is in the directory of the status files of btrfs-scrub(8). One filesystem can have the
// pools of several agents.
func recordFile(c Config, fsid uuid.UUID) string {
	pool := sha256.Sum256([]byte(c.Dir))
	return filepath.Join(c.ScrubStatusDir, fmt.Sprintf("btrfs-nfs-agent.tasks.%s.%x", fsid, pool[:4]))
}

// save records the running tasks. The caller holds m.mu.
func (m *Manager) save() error {
	records := []record{}
	for _, e := range m.tasks {
		if e.task.Status == Running {
			records = append(records, record{e.tenant, e.task, e.process})
		}
	}
	if len(records) == 0 {
		if err := os.Remove(m.record); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	text, err := json.Marshal(records)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(m.record), 0o755); err != nil {
		return err
	}
	return renameio.WriteFile(m.record, text, 0o600)
}

// resume launches the recorded tasks.
func (m *Manager) resume() {
	records, err := m.load()
	if err != nil {
		m.config.Logger.Error("failed to resume the tasks of the last agent", "error", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range records {
		if err := r.Task.validate(); err != nil {
			m.config.Logger.Error("failed to resume a task", "task", r.Task.ID, "type", r.Task.Type, "error", err)
			continue
		}
		e := &entry{tenant: r.Tenant, task: r.Task, process: r.Process, resumed: true}
		m.tasks = append(m.tasks, e)
		m.launch(e)
	}
}

func (m *Manager) load() (records []record, err error) {
	text, err := os.ReadFile(m.record)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	err = json.Unmarshal(text, &records)
	return records, err
}
