package storage

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// errKilled simulates the end of the process: every later step fails with it.
var errKilled = errors.New("the process was killed")

// faults counts the steps of a change and makes some of them fail.
type faults struct {
	mu       sync.Mutex
	steps    []string
	from, to int    // range of steps that fail, counted from 1, without to
	named    string // a kill waits for the first step of this name
	err      error
	at       func(step string) // called before each step

	failing []string // each step with one of these names fails with failure
	failure error
}

// arm makes the steps from, from+1, ... before to fail, counted from now.
func (f *faults) arm(from, to int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.steps, f.from, f.to, f.err, f.named = nil, from, to, err, ""
}

// kill makes every step fail, starting with the given one.
func (f *faults) kill(from int) { f.arm(from, math.MaxInt, errKilled) }

// killBefore makes every step fail, starting with the first one of that name.
func (f *faults) killBefore(step string) {
	f.arm(math.MaxInt, math.MaxInt, errKilled)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.named = step
}

// fail makes each step of these names fail, until the next call.
func (f *faults) fail(err error, steps ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failing, f.failure = steps, err
}

// watch calls at before each step. nil ends that.
func (f *faults) watch(at func(step string)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at = at
}

// disarm makes everything work again and returns the steps since arm.
func (f *faults) disarm() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	steps := f.steps
	f.steps, f.from, f.to, f.named = nil, 0, 0, ""
	return steps
}

func (f *faults) step(name string) error {
	f.mu.Lock()
	at := f.at
	f.mu.Unlock()
	if at != nil {
		at(name)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.steps = append(f.steps, name)
	if name == f.named {
		f.from, f.named = len(f.steps), ""
	}
	if n := len(f.steps); n >= f.from && n < f.to {
		return f.err
	}
	if slices.Contains(f.failing, name) {
		return f.failure
	}
	return nil
}

// faultyExporter has fail points around the calls of the NFS server. A call that fails may have
// taken effect.
type faultyExporter struct {
	*memoryExporter
	faults *faults
}

func (e faultyExporter) Export(ctx context.Context, exports []nfs.Export) error {
	return e.around("export", func() error { return e.memoryExporter.Export(ctx, exports) })
}

func (m *memoryExporter) put(e nfs.Export) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.exports[e.Key()] = e
}

func (m *memoryExporter) drop(e nfs.Export) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.exports, e.Key())
}

// setRoots sets the exports of other programs with fsid=0.
func (m *memoryExporter) setRoots(roots ...nfs.Export) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.roots = roots
}

func (m *memoryExporter) list() []nfs.Export {
	out, _ := m.List(context.Background()) // never fails
	return out
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
