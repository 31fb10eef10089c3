package storage

import "runtime"

// turns keeps the changes that work on the trees at the same time to about the number of cores. More would not be faster:
// the kernel takes one at a time into a directory and a qgroup, and those that wait spin (mutex_spin_on_owner in
// kernel/locking/mutex.c) and switch, which costs more than the work itself. Waiting for a commit needs no turn, and neither
// do snapshots, which commit inside their ioctl and are to meet there.
type turns chan struct{}

func newTurns() turns { return make(turns, max(2, runtime.GOMAXPROCS(0))) }

func (t turns) take(do func() error) error {
	t <- struct{}{}
	defer func() { <-t }()
	return do()
}
