package uml

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// cpuClaim is the CPU that a guest runs on. A guest has one virtual CPU but consists of several
// processes that switch on every system call. If they are spread over CPUs, they are ten times
// slower.
type cpuClaim struct {
	set  *unix.CPUSet // nil means not pinned
	lock *os.File     // held while the guest runs, so that another guest takes another CPU; or nil
}

const notPinned = "none"

// chooseCPU takes the CPU that choice names, or one that no other guest has.
func chooseCPU(cache, choice string) (*cpuClaim, error) {
	if choice == notPinned {
		return &cpuClaim{}, nil
	}
	if choice != "" {
		n, err := strconv.Atoi(choice)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("CPU %q is neither a number nor %q", choice, notPinned)
		}
		return claimOf(n), nil
	}
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return nil, err
	}
	last := 0
	for n := len(allowed)*64 - 1; n >= 0; n-- { // from the last one: the first CPU has most interrupts
		if !allowed.IsSet(n) {
			continue
		}
		last = n
		lock, err := tryLock(filepath.Join(cache, fmt.Sprintf("cpu-%d.lock", n)))
		if err == nil {
			c := claimOf(n)
			c.lock = lock
			return c, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, err
		}
	}
	// All are taken: share the CPU that the oldest guests are least likely to have.
	return claimOf(last), nil
}

func claimOf(n int) *cpuClaim {
	c := &cpuClaim{set: &unix.CPUSet{}}
	c.set.Set(n)
	return c
}

func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// pinThread binds the calling thread.
func (c *cpuClaim) pinThread() error {
	if c.set == nil {
		return nil
	}
	return unix.SchedSetaffinity(0, c.set)
}

func (c *cpuClaim) release() error {
	if c.lock == nil {
		return nil
	}
	return c.lock.Close()
}
