package nfsmount

import "context"

// Bounded runs f in a new goroutine and waits for it until ctx ends. Then it returns the cause of
// ctx, and leaves f's goroutine behind, which may be stuck in the kernel. late receives a result
// that arrives after that, so that an abandoned call can release it. late may be nil.
//
// An abandoned goroutine occupies one operating system thread until the server answers or the mount
// is forcibly removed. Statfs, which is called again and again, costs one thread per mount and not
// one per call.
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

// boundedErr is Bounded for functions that return only an error.
func boundedErr(ctx context.Context, f func() error) error {
	_, err := Bounded(ctx, func() (struct{}, error) { return struct{}{}, f() }, nil)
	return err
}
