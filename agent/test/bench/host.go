package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
)

// host implements the part of testing.TB that testpool uses, so that testpool works outside of a
// test.
type host struct {
	testing.TB
	ctx      context.Context
	cleanups []func()
	problems []error
}

func newHost(ctx context.Context) *host { return &host{ctx: ctx} }

// fatal is the panic value of Fatalf. Fatalf of package testing would end the goroutine.
type fatal struct{ error }

// end runs the cleanups and joins their errors to err. reason is the result of recover.
func (h *host) end(reason any, err error) error {
	for _, cleanup := range slices.Backward(h.cleanups) {
		cleanup()
	}
	if f, ok := reason.(fatal); ok {
		err = errors.Join(err, f.error)
	} else if reason != nil {
		panic(reason)
	}
	return errors.Join(append(h.problems, err)...)
}

func (h *host) Helper()                  {}
func (h *host) Name() string             { return "bench" }
func (h *host) Context() context.Context { return h.ctx }
func (h *host) Cleanup(f func())         { h.cleanups = append(h.cleanups, f) }

func (h *host) Errorf(format string, args ...any) {
	h.problems = append(h.problems, fmt.Errorf(format, args...))
}

func (h *host) Fatalf(format string, args ...any) { panic(fatal{fmt.Errorf(format, args...)}) }
func (h *host) Fatal(args ...any)                 { panic(fatal{errors.New(fmt.Sprint(args...))}) }

func (h *host) TempDir() string {
	dir, err := os.MkdirTemp("", "btrfs-nfs-bench-")
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			h.Errorf("%w", err)
		}
	})
	return dir
}
