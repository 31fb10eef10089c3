package nfsmount

import (
	"context"
	"errors"
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

func TestBoundedGivesWhatTheCallGives(t *testing.T) {
	wrong := errors.New("wrong")
	value, err := Bounded(t.Context(), func() (int, error) { return 7, wrong }, nil)
	assert.Equal(t, value, 7)
	assert.ErrorIs(t, err, wrong)
}

func TestBoundedLeavesAHungCallBehind(t *testing.T) {
	hung, late := make(chan struct{}), make(chan int, 1)
	reason := errors.New("patience is over")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, reason)
	defer cancel()
	_, err := Bounded(ctx, func() (int, error) { <-hung; return 7, nil }, func(v int) { late <- v })
	assert.ErrorIs(t, err, reason)
	close(hung)
	assert.Equal(t, <-late, 7, "what the call got after all can be given back")
}

func TestBoundedDoesNotBeginTooLate(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Bounded(ctx, func() (int, error) { t.Error("called"); return 0, nil }, nil)
	assert.ErrorIs(t, err, context.Canceled)
}
