package storage

import (
	"sync"
	"time"
)

// recent keeps what a look saw for a while, so that many requests do not cost many looks. While somebody looks anew the others
// are told what was seen before: nobody waits for a look of somebody else's but the first.
type recent[T any] struct {
	looking sync.Mutex // held while somebody looks

	mu    sync.Mutex
	at    time.Time
	value T
}

// get returns what was seen less than age ago, or looks.
func (r *recent[T]) get(age time.Duration, look func() T) T {
	value, at := r.seen()
	switch {
	case !at.IsZero() && time.Since(at) < age:
		return value
	case at.IsZero():
		r.looking.Lock()
	case !r.looking.TryLock():
		return value
	}
	defer r.looking.Unlock()
	if value, at := r.seen(); !at.IsZero() && time.Since(at) < age {
		return value // seen by the one that this one waited for
	}
	value = look()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.value, r.at = value, time.Now()
	return value
}

func (r *recent[T]) seen() (T, time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.value, r.at
}

// forget makes the next look a new one.
func (r *recent[T]) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at = time.Time{}
}
