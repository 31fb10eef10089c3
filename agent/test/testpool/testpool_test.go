package testpool_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

func TestPoolIsGoneAfterTheTest(t *testing.T) {
	var pool *testpool.Pool
	t.Run("inner", func(t *testing.T) {
		pool = testpool.New(t, testpool.Options{Subvolume: "@", MountOptions: "noatime", Quota: btrfs.QuotaFull})
		dir := open(t, pool.Dir)
		info, err := btrfs.Subvolume(dir)
		assert.NilError(t, err)
		assert.Equal(t, info.ParentID, uint64(5)) // "@" is mounted, not the top
	})
	assert.Assert(t, !mounted(t, pool.Dir))
	assert.Assert(t, !attached(t, pool.Image))
}

func TestMountAgainKeepsContentAndUUID(t *testing.T) {
	pool := testpool.New(t, testpool.Options{})
	before := fsid(t, pool)
	assert.NilError(t, os.WriteFile(filepath.Join(pool.Dir, "file"), []byte("content"), 0o600))
	pool.Unmount()
	assert.Assert(t, !mounted(t, pool.Dir))
	pool.Mount()
	content, err := os.ReadFile(filepath.Join(pool.Dir, "file"))
	assert.NilError(t, err)
	assert.Equal(t, string(content), "content")
	assert.Equal(t, fsid(t, pool), before)
}

func TestCopyHoldsOnlyWhatReachedTheDevice(t *testing.T) {
	for _, atomic := range []bool{false, true} {
		t.Run(fmt.Sprintf("atomic=%v", atomic), func(t *testing.T) {
			pool := testpool.New(t, testpool.Options{AtomicCopies: atomic, MountOptions: "commit=300"})
			makeSubvolume(t, pool, "committed")
			commit(t, pool)
			fsynced := filepath.Join("committed", "fsynced") // in the log tree, not in a transaction
			writeAndSync(t, filepath.Join(pool.Dir, fsynced))
			makeSubvolume(t, pool, "later")

			cut := pool.Copy()
			assert.Assert(t, exists(t, cut, "committed"))
			assert.Assert(t, exists(t, cut, fsynced))
			assert.Assert(t, !exists(t, cut, "later"))
			assert.Assert(t, fsid(t, cut) != fsid(t, pool))

			before := fsid(t, pool)
			pool.PowerCut()
			assert.Assert(t, exists(t, pool, "committed"))
			assert.Assert(t, exists(t, pool, fsynced))
			assert.Assert(t, !exists(t, pool, "later"))
			assert.Equal(t, fsid(t, pool), before)
		})
	}
}

// Copies that are taken during writes must be possible results of a power cut: they mount, and hold
// a prefix of the changes.
func TestAtomicCopiesUnderLoad(t *testing.T) {
	pool := testpool.New(t, testpool.Options{AtomicCopies: true})
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() { stopped <- keepCreating(pool.Dir, stop) }()
	for range 5 {
		cut := pool.Copy()
		entries, err := os.ReadDir(cut.Dir)
		assert.NilError(t, err)
		for i := range entries {
			assert.Assert(t, exists(t, cut, fmt.Sprintf("volume%06d", i)))
		}
		cut.Unmount()
		out, err := exec.Command("btrfs", "check", cut.Image).CombinedOutput()
		assert.NilError(t, err, "%s", out)
	}
	close(stop)
	assert.NilError(t, <-stopped)
}

func TestGuardUnmountsWhenTheProcessIsKilled(t *testing.T) {
	const marker = "TESTPOOL_KILL_ME"
	if os.Getenv(marker) != "" {
		pool := testpool.New(t, testpool.Options{})
		fmt.Printf("mounted %s\n", pool.Dir)
		_ = os.Stdout.Sync()
		select {}
	}
	temp := t.TempDir()
	child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	child.Env = append(os.Environ(), marker+"=1", "TMPDIR="+temp)
	out, err := child.StdoutPipe()
	assert.NilError(t, err)
	assert.NilError(t, child.Start())
	dir := awaitMount(t, out)
	assert.Assert(t, mounted(t, dir))
	assert.NilError(t, child.Process.Kill())
	_ = child.Wait()
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if mounted(t, dir) {
			return poll.Continue("%s is still mounted", dir)
		}
		return poll.Success()
	}, poll.WithTimeout(time.Minute), poll.WithDelay(20*time.Millisecond))
}

// awaitMount reads the child's output until the child has mounted its pool.
func awaitMount(t *testing.T, out interface{ Read([]byte) (int, error) }) string {
	t.Helper()
	var said strings.Builder
	buffer := make([]byte, 4096)
	for {
		n, err := out.Read(buffer)
		said.Write(buffer[:n])
		for line := range strings.Lines(said.String()) {
			if dir, ok := strings.CutPrefix(line, "mounted "); ok && strings.HasSuffix(line, "\n") {
				return strings.TrimSpace(dir)
			}
		}
		assert.NilError(t, err, "the child said: %s", said.String())
	}
}

func keepCreating(dir string, stop <-chan struct{}) error {
	fs, err := btrfs.Open(dir)
	if err != nil {
		return err
	}
	defer fs.Close()
	for i := 0; ; i++ {
		select {
		case <-stop:
			return nil
		default:
		}
		if err := btrfs.CreateSubvolume(fs.File(), fmt.Sprintf("volume%06d", i)); err != nil {
			return err
		}
		if i%10 == 9 {
			if err := fs.Commit(context.Background()); err != nil {
				return err
			}
		}
	}
}

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	assert.NilError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func makeSubvolume(t *testing.T, pool *testpool.Pool, name string) {
	t.Helper()
	dir, err := os.Open(pool.Dir)
	assert.NilError(t, err)
	defer dir.Close()
	assert.NilError(t, btrfs.CreateSubvolume(dir, name))
}

func writeAndSync(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	assert.NilError(t, err)
	defer f.Close()
	_, err = f.WriteString("content")
	assert.NilError(t, err)
	assert.NilError(t, f.Sync())
}

func commit(t *testing.T, pool *testpool.Pool) {
	t.Helper()
	fs, err := btrfs.Open(pool.Dir)
	assert.NilError(t, err)
	defer fs.Close()
	assert.NilError(t, fs.Commit(t.Context()))
}

func fsid(t *testing.T, pool *testpool.Pool) string {
	t.Helper()
	fs, err := btrfs.Open(pool.Dir)
	assert.NilError(t, err)
	defer fs.Close()
	return fs.FSID().String()
}

func exists(t *testing.T, pool *testpool.Pool, name string) bool {
	t.Helper()
	_, err := os.Lstat(filepath.Join(pool.Dir, name))
	if !os.IsNotExist(err) {
		assert.NilError(t, err)
	}
	return err == nil
}

func mounted(t *testing.T, dir string) bool {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	assert.NilError(t, err)
	return strings.Contains(string(table), " "+dir+" ")
}

func attached(t *testing.T, image string) bool {
	t.Helper()
	backing, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	assert.NilError(t, err)
	for _, path := range backing {
		if file, err := os.ReadFile(path); err == nil && strings.HasPrefix(string(file), image) {
			return true
		}
	}
	return false
}
