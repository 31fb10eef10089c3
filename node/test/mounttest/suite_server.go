package mounttest

import (
	"context"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
)

func used(s unix.Statfs_t) int64 { return int64(s.Blocks-s.Bfree) * s.Bsize }

func checkAndCapacity(t *testing.T, b Backend) {
	data, dir, _ := mounted(t, b)
	assert.NilError(t, b.Mounter().Check(t.Context(), data))
	capacity, err := b.Mounter().Statfs(t.Context(), data)
	assert.NilError(t, err)
	assert.Assert(t, capacity.Blocks > 0)
	assert.Assert(t, capacity.Bavail <= capacity.Bfree)
	f, err := os.Create(filepath.Join(data, "f"))
	assert.NilError(t, err)
	_, err = f.WriteString(strings.Repeat("x", 1<<20))
	assert.NilError(t, err)
	assert.NilError(t, f.Sync())
	assert.NilError(t, f.Close())
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		after, err := b.Mounter().Statfs(t.Context(), data)
		if err == nil && used(after) >= used(capacity)+1<<20 {
			return poll.Success()
		}
		return poll.Continue("used: %d, before: %d, %v", used(after), used(capacity), err)
	}, poll.WithTimeout(time.Minute)) // btrfs updates its counters with the next commit
	for _, f := range []func() error{
		func() error { return b.Mounter().Check(t.Context(), dir) },
		func() error { _, err := b.Mounter().Statfs(t.Context(), filepath.Join(dir, "none")); return err },
	} {
		assert.ErrorIs(t, f(), nfsmount.ErrNotMounted)
	}
}

func silentServer(t *testing.T, b Backend) {
	data, dir, f := mountedFragile(t, b)
	healthy, _, _ := mounted(t, b)
	f.Silence()
	defer f.Revive()
	err := within(t, Patience(b), func() error { return b.Mounter().Check(t.Context(), data) })
	assert.ErrorIs(t, err, nfsmount.ErrUnresponsive)
	err = within(t, Patience(b), func() error { _, err := b.Mounter().Statfs(t.Context(), data); return err })
	assert.ErrorIs(t, err, nfsmount.ErrUnresponsive)

	// A caller with a shorter deadline does not wait longer.
	hurried, cancel := context.WithTimeout(t.Context(), b.Limits().Stat/4)
	defer cancel()
	begin := time.Now()
	assert.Assert(t, b.Mounter().Check(hurried, data) != nil)
	assert.Assert(t, time.Since(begin) < b.Limits().Stat)

	// Other mounts keep working.
	assert.NilError(t, within(t, Patience(b), func() error { return b.Mounter().Check(t.Context(), healthy) }))
	assert.NilError(t, within(t, Patience(b), func() error {
		return b.Mounter().Bind(t.Context(), healthy, filepath.Join(dir, "target"), false)
	}))
	f.Revive()
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if err := b.Mounter().Check(t.Context(), data); err != nil {
			return poll.Continue("%v", err)
		}
		return poll.Success()
	}, poll.WithTimeout(90*time.Second)) // an NFS client retransmits after at most 60 s
}

func silentServerIsAskedOnce(t *testing.T, b Backend) {
	data, _, f := mountedFragile(t, b)
	f.Silence()
	defer f.Revive()
	// Other tests may have left calls in the kernel, which end when their servers answer. The label
	// marks the goroutines of this test.
	pprof.Do(t.Context(), pprof.Labels("test", t.Name()), func(ctx context.Context) {
		for range 5 {
			// The steps before the request, on a busy machine, must not use up the deadline.
			hurried, cancel := context.WithTimeout(ctx, b.Limits().Stat/4)
			assert.ErrorIs(t, b.Mounter().Check(hurried, data), nfsmount.ErrUnresponsive)
			cancel()
		}
	})
	stuck, stacks := goroutinesIn(t, "unix.Statfs+")
	assert.Equal(t, stuck, 1, "one call waits in the kernel:\n%s", stacks)
}

// goroutinesIn counts the goroutines that have the test's label and are in a call of function. It
// returns the stacks of all.
func goroutinesIn(t *testing.T, function string) (int, string) {
	var profile strings.Builder
	assert.NilError(t, pprof.Lookup("goroutine").WriteTo(&profile, 1))
	_, records, _ := strings.Cut(profile.String(), "\n") // "goroutine profile: total N"
	total := 0
	// A record is "COUNT @ ADDRESS...", "# labels: {...}" and a line for each function. An empty
	// line ends it.
	for record := range strings.SplitSeq(records, "\n\n") {
		if !strings.Contains(record, strconv.Quote(t.Name())) || !strings.Contains(record, function) {
			continue
		}
		count, _, _ := strings.Cut(record, " @ ")
		n, err := strconv.Atoi(count)
		assert.NilError(t, err, record)
		total += n
	}
	return total, profile.String()
}

func silentServerUnmount(t *testing.T, b Backend) {
	data, dir, f := mountedFragile(t, b)
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	assert.NilError(t, b.Mounter().Bind(t.Context(), data, one, false))
	assert.NilError(t, b.Mounter().Bind(t.Context(), data, two, true))
	f.Silence()
	defer f.Revive()
	for _, target := range []string{one, two, one} {
		assert.NilError(t, within(t, Patience(b), func() error { return b.Mounter().Unbind(t.Context(), target) }))
		gone(t, target)
	}
	for range 2 {
		assert.NilError(t, within(t, Patience(b), func() error { return b.Mounter().Unmount(t.Context(), data) }))
		gone(t, data)
	}
	assert.Equal(t, len(mountsBelow(t, dir)), 0)
}

func silentServerMount(t *testing.T, b Backend) {
	data, dir, f := mountedFragile(t, b)
	f.Silence()
	defer f.Revive()
	// The volume is already staged: the mount stays, because it recovers with its server.
	err := within(t, Patience(b), func() error { return b.Mounter().Mount(t.Context(), f.Source, data, b.Options()) })
	assert.ErrorIs(t, err, nfsmount.ErrUnresponsive)
	assert.DeepEqual(t, mountsBelow(t, dir), []string{data})
	// A new mount: nothing appears, then or later.
	second := filepath.Join(dir, "second")
	err = within(t, Patience(b), func() error { return b.Mounter().Mount(t.Context(), f.Source, second, b.Options()) })
	assert.ErrorIs(t, err, nfsmount.ErrUnresponsive)
	assert.Equal(t, layers(t, second), 0)
}
