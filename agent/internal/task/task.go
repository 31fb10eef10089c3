// Package task runs work on the pool that takes minutes to hours, one task of each type at a time.
// Scrub and balance are runs of the btrfs program. The agent itself does a defragmentation.
//
// The agent records running tasks in a file. An agent that stops interrupts them, and the next one
// resumes them. Ended tasks are only in memory.
package task

import (
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/labels"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// Status of a task.
type Status string

// The last three are final.
const (
	Running   Status = "running"
	Completed Status = "completed"
	Failed    Status = "failed"
	Cancelled Status = "cancelled"
)

// Spec is a request for a task.
type Spec struct {
	Type    string            // one of Types
	Timeout time.Duration     // after which the task fails; 0 means none
	Options map[string]string // of that type
	Labels  map[string]string
}

// Task is one piece of work.
type Task struct {
	Spec

	ID        string
	Status    Status
	Progress  float64 // from 0 to 1, as far as it is known
	Result    Result  // of an ended task, also if it is incomplete
	Error     string  // why it failed
	StartedAt time.Time
	EndedAt   time.Time // zero while it runs
}

// Result holds the counts of a task, by the names of its type.
type Result map[string]int64

func (s Spec) validate() error {
	work, known := kinds[s.Type]
	if !known {
		return agentapi.Errorf(agentapi.Invalid, "type must be one of %s, got %.64q", listOf(Types()), s.Type)
	}
	if s.Timeout < 0 {
		return agentapi.Errorf(agentapi.Invalid, "timeout must not be negative, got %v", s.Timeout)
	}
	if err := work.validate(s.Options); err != nil {
		return err
	}
	return labels.Check(s.Labels)
}
