package storage

import "context"

// abandon leaves the store as a killed process would: nothing is waited for but the store's own goroutine, and the kernel
// gets the descriptors, and with them the lock, back.
func (s *Store) abandon() {
	s.inFlight.drain()
	s.maintenance.stop()
	s.release()
}

// maintain is one round of maintenance, which else comes every minute.
func (s *Store) maintain(ctx context.Context) { s.maintenance.maintainPool(ctx, s) }
