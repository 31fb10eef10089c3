package osthread_test

import (
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/osthread"
)

func TestSpendNeverUsesTheFirstThread(t *testing.T) {
	const spenders, times = 8, 50
	var all sync.WaitGroup
	var mu sync.Mutex
	used := map[int]bool{}
	for range spenders {
		all.Go(func() {
			for range times {
				osthread.Spend(func() {
					mu.Lock()
					defer mu.Unlock()
					used[unix.Gettid()] = true
				})
			}
		})
	}
	all.Wait()
	assert.Assert(t, !used[os.Getpid()], "Spend used the first thread")
	// The threads end.
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return poll.Error(err)
		}
		if len(threads) > spenders*times/4 {
			return poll.Continue("%d threads are there", len(threads))
		}
		return poll.Success()
	}, poll.WithTimeout(time.Minute))
}
