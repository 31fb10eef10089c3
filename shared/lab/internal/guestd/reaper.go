package guestd

import (
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// reaper starts processes and reaps all children of process 1: those that it started, and orphans.
type reaper struct {
	mu      sync.Mutex // held over fork and registration, so that no status arrives too early
	waiting map[int]chan unix.WaitStatus
	child   chan os.Signal
}

func newReaper() *reaper {
	r := &reaper{waiting: map[int]chan unix.WaitStatus{}, child: make(chan os.Signal, 1)}
	signal.Notify(r.child, unix.SIGCHLD)
	return r
}

func (r *reaper) run() {
	for range r.child {
		r.collect()
	}
}

func (r *reaper) collect() {
	for {
		r.mu.Lock()
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		waiter := r.waiting[pid]
		delete(r.waiting, pid)
		r.mu.Unlock()
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if waiter != nil {
			waiter <- status
		}
	}
}

// start forks and executes a program. Its status arrives on the channel.
func (r *reaper) start(path string, args []string, attr *syscall.ProcAttr) (int, <-chan unix.WaitStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, args, attr)
	if err != nil {
		return 0, nil, err
	}
	ch := make(chan unix.WaitStatus, 1)
	r.waiting[pid] = ch
	return pid, ch, nil
}
