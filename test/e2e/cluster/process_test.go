package cluster

import (
	"io"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

// stuck is a program that no signal ends.
type stuck struct{ released chan struct{} }

func (s stuck) Signal(syscall.Signal) error { return nil }

func (s stuck) Wait() error {
	<-s.released
	return nil
}

// TestStartAfterAKillThatTakesLong: a process that is still ending does not count as running.
func TestStartAfterAKillThatTakesLong(t *testing.T) {
	starts, first, second := 0, make(chan struct{}), make(chan struct{})
	p := &Process{Name: "program", Log: filepath.Join(t.TempDir(), "log"), launch: func(io.Writer) (running, error) {
		starts++
		return stuck{[]chan struct{}{first, second}[starts-1]}, nil
	}}
	assert.NilError(t, p.Start())
	assert.NilError(t, p.Start(), "it runs")
	p.end(syscall.SIGKILL, time.Millisecond)
	assert.ErrorContains(t, p.startAfter(time.Millisecond), "has not after")
	assert.Equal(t, starts, 1)
	close(first)
	assert.NilError(t, p.Start())
	assert.Equal(t, starts, 2)
	close(second)
	p.Stop()
}
