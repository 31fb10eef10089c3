package storage

import (
	"context"
	"errors"
	"math"
	"sync"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// errKilled stands for the end of the process: every step from then on fails with it.
var errKilled = errors.New("the process was killed")

// faults counts the steps of a change and fails some of them.
type faults struct {
	mu       sync.Mutex
	steps    []string
	from, to int // steps that fail, counted from 1; to is not one of them
	err      error
	at       func(step string) // called once, before the first step that fails
}

// arm makes the steps from, from+1, ... before to fail, counted from now.
func (f *faults) arm(from, to int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.steps, f.from, f.to, f.err, f.at = nil, from, to, err, nil
}

// kill makes every step fail from the given one on.
func (f *faults) kill(from int) { f.arm(from, math.MaxInt, errKilled) }

// disarm makes everything work again and returns the steps since arm.
func (f *faults) disarm() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	steps := f.steps
	f.steps, f.from, f.to, f.at = nil, 0, 0, nil
	return steps
}

func (f *faults) step(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.steps = append(f.steps, name)
	if n := len(f.steps); n < f.from || n >= f.to {
		return nil
	}
	if f.at != nil {
		f.at(name)
		f.at = nil
	}
	return f.err
}

// faultyExporter has fault points around what the NFS server is told: a call that fails may have had its effect.
type faultyExporter struct {
	*memoryExporter
	faults *faults
}

func (e faultyExporter) Export(ctx context.Context, exports []nfs.Export) error {
	return e.around("export", func() error { return e.memoryExporter.Export(ctx, exports) })
}

func (e faultyExporter) Unexport(ctx context.Context, exports []nfs.Export) error {
	return e.around("unexport", func() error { return e.memoryExporter.Unexport(ctx, exports) })
}

func (e faultyExporter) around(what string, call func() error) error {
	if err := e.faults.step(what); err != nil {
		return err
	}
	if err := call(); err != nil {
		return err
	}
	return e.faults.step(what + " answered")
}
