package csiserver

import (
	"context"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Locks exclude calls for the same volume or snapshot. They never wait. The zero value is ready for
// concurrent use.
type Locks struct {
	mu   sync.Mutex
	held map[string]int // number of calls that share a key; -1 means one exclusive call
}

// Keys are the keys that a call locks. The value is true if the call excludes all others with the
// key. It is false if the call shares the key with others that share it.
type Keys map[string]bool

// Locked runs a call with all of its keys locked. While another call holds one of them, the answer
// is Aborted, and the caller retries with back-off (CSI spec, "Error Scheme").
func Locked[Q, A any](ctx context.Context, l *Locks, keys Keys, request Q, call func(context.Context, Q) (A, error)) (A, error) {
	if err := l.lock(keys); err != nil {
		var none A
		return none, err
	}
	defer l.unlock(keys)
	return call(ctx, request)
}

// lock takes all keys or none.
func (l *Locks) lock(keys Keys) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, alone := range keys {
		if held := l.held[key]; held < 0 || alone && held > 0 {
			return status.Errorf(codes.Aborted, "another call for %s is under way", key)
		}
	}
	if l.held == nil {
		l.held = map[string]int{}
	}
	for key, alone := range keys {
		if alone {
			l.held[key] = -1
		} else {
			l.held[key]++
		}
	}
	return nil
}

func (l *Locks) unlock(keys Keys) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, alone := range keys {
		if !alone {
			l.held[key]--
		}
		if alone || l.held[key] == 0 {
			delete(l.held, key)
		}
	}
}
