package storage

import (
	"sync"
	"time"
)

// cached keeps a value that is expensive to read for some time. While one caller reads it, the
// others get the previous value. They wait only for the first read.
type cached[T any] struct {
	reading sync.Mutex // held during a read

	mu    sync.Mutex
	at    time.Time
	value T
}

// get returns a value that is younger than age, or reads it.
func (c *cached[T]) get(age time.Duration, read func() T) T {
	value, at := c.last()
	switch {
	case !at.IsZero() && time.Since(at) < age:
		return value
	case at.IsZero():
		c.reading.Lock()
	case !c.reading.TryLock():
		return value
	}
	defer c.reading.Unlock()
	if value, at := c.last(); !at.IsZero() && time.Since(at) < age {
		return value // the other caller has read it during the wait
	}
	value = read()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.value, c.at = value, time.Now()
	return value
}

func (c *cached[T]) last() (T, time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.value, c.at
}
