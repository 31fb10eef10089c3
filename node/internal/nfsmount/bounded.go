package nfsmount

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/singleflight"
)

// Bounded runs f on a goroutine of its own and waits for it until ctx ends; then it answers with the reason of that, and
// f's goroutine, which may be stuck in the kernel, is left behind. What f returns after that goes to late (nil to
// drop it), so that an abandoned call can give back what it got.
//
// An abandoned goroutine costs one operating system thread until the server answers or the mount is forced away. Calls
// that are made again and again go through a probe, so that the cost is one thread a mount and not one a call.
func Bounded[T any](ctx context.Context, f func() (T, error), late func(T)) (T, error) {
	type result struct {
		value T
		err   error
	}
	if ctx.Err() != nil {
		var zero T
		return zero, context.Cause(ctx)
	}
	done := make(chan result)
	go func() {
		value, err := f()
		select {
		case done <- result{value, err}:
		case <-ctx.Done():
			if err == nil && late != nil {
				late(value)
			}
		}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var zero T
		return zero, context.Cause(ctx)
	}
}

// boundedErr is Bounded for calls that return nothing but an error.
func boundedErr(ctx context.Context, f func() error) error {
	_, err := Bounded(ctx, func() (struct{}, error) { return struct{}{}, f() }, nil)
	return err
}

// probe joins questions about the same mount: while one is still stuck in the kernel, the next waits for that one's answer.
type probe[T any] struct{ group singleflight.Group }

func (p *probe[T]) ask(ctx context.Context, key string, f func() (T, error)) (T, error) {
	answer := p.group.DoChan(key, func() (any, error) { return f() })
	var none T
	select {
	case r := <-answer:
		if r.Err != nil {
			return none, r.Err
		}
		return r.Val.(T), nil
	case <-ctx.Done():
		reason := context.Cause(ctx)
		if errors.Is(reason, ErrUnresponsive) {
			return none, reason
		}
		return none, fmt.Errorf("%w in time: %w", ErrUnresponsive, reason)
	}
}
