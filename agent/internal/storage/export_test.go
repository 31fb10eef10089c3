package storage

import "context"

// abandon leaves the store as a killed process would: nothing is waited for but the store's own goroutine, and the kernel
// gets the descriptors, and with them the lock, back.
func (s *Store) abandon() {
	s.gate.shut()
	s.upkeep.stop()
	s.release()
}

// lookAfter is one round of upkeep, which else comes every minute.
func (s *Store) lookAfter(ctx context.Context) { s.upkeep.lookAfterPool(ctx, s) }
