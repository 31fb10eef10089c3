package task

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// volume creates the subvolume a/NAME/data with full quotas, and makes tasks find it.
func (f *fixture) volume(name string) (dir string, id uint64) {
	f.t.Helper()
	dir = filepath.Join(f.pool.Dir, "a", name, "data")
	assert.NilError(f.t, f.fs.EnableQuota(btrfs.QuotaFull))
	assert.NilError(f.t, os.MkdirAll(filepath.Dir(dir), 0o755))
	out, err := exec.Command("btrfs", "subvolume", "create", dir).CombinedOutput()
	assert.NilError(f.t, err, string(out))
	open, err := os.Open(dir)
	assert.NilError(f.t, err)
	defer open.Close()
	info, err := btrfs.Subvolume(open)
	assert.NilError(f.t, err)
	f.config.Defragmentable = func(tenant, volume string, _ bool) (string, error) {
		return filepath.Join(tenant, volume, "data"), nil
	}
	return dir, info.ID
}

// overwrite writes a file as a database does: in small blocks and in place.
func (f *fixture) overwrite(path string, size, times int) {
	f.t.Helper()
	file, err := os.Create(path)
	assert.NilError(f.t, err)
	defer file.Close()
	content := make([]byte, size)
	for i := range content {
		content[i] = byte(rand.Uint32())
	}
	_, err = file.Write(content)
	assert.NilError(f.t, err)
	assert.NilError(f.t, file.Sync())
	const block = 4 << 10
	for i := range times {
		_, err := file.WriteAt(content[:block], rand.Int64N(int64(size/block))*block)
		assert.NilError(f.t, err)
		if i%50 == 0 {
			assert.NilError(f.t, file.Sync())
		}
	}
	assert.NilError(f.t, file.Sync())
}

func (f *fixture) used(id uint64) int64 {
	f.t.Helper()
	assert.NilError(f.t, f.fs.Commit(f.t.Context()))
	group, err := f.fs.Qgroup(id)
	assert.NilError(f.t, err)
	return int64(group.Referenced)
}

// extents returns the extents of a file.
func extents(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.Command("filefrag", "-v", path).CombinedOutput()
	assert.NilError(t, err, string(out))
	return string(out)
}

var defragmentV = Spec{Type: "defragment", Options: map[string]string{"volume": "v"}}

// A defragmentation frees space that overwritten parts of files still use of the limit. Contents do
// not change.
func TestDefragment(t *testing.T) {
	f := newFixture(t)
	dir, id := f.volume("v")
	assert.NilError(t, os.MkdirAll(filepath.Join(dir, "deep", "er"), 0o700))
	for _, name := range []string{"db", "deep/er/db"} {
		f.overwrite(filepath.Join(dir, name), 16*mib, 2000)
	}
	sum := func() string {
		out, err := exec.Command("sh", "-c", `cd "$0" && find . -type f -exec sha256sum {} + | sort`, dir).CombinedOutput()
		assert.NilError(t, err)
		return string(out)
	}
	before, content := f.used(id), sum()
	assert.Assert(t, before > 40*mib, "%d", before)

	task := f.ended(f.start(defragmentV).ID)
	assert.Equal(t, task.Status, Completed, task.Error)
	assert.Equal(t, task.Result["files"], int64(2))
	assert.Equal(t, task.Result["bytes"], int64(32*mib))
	assert.DeepEqual(t, task.Options, defragmentV.Options)
	after := f.used(id)
	assert.Assert(t, after < 34*mib, "%d bytes before, %d after", before, after)
	assert.Equal(t, sum(), content)
}

// The walk stays in the volume, whatever its clients put into it.
func TestDefragmentFollowsNothing(t *testing.T) {
	f := newFixture(t)
	dir, _ := f.volume("v")
	other, _ := f.volume("other")
	for _, path := range []string{filepath.Join(other, "db"), filepath.Join(f.pool.Dir, "host")} {
		f.overwrite(path, 2*mib, 200)
	}
	out, err := exec.Command("btrfs", "subvolume", "create", filepath.Join(dir, "nested")).CombinedOutput()
	assert.NilError(t, err, string(out))
	f.overwrite(filepath.Join(dir, "nested", "db"), 2*mib, 200)
	for link, target := range map[string]string{
		"dir": other, "up": "../../other/data", "file": filepath.Join(other, "db"), "host": "../../../host", "itself": ".", "device": "/dev/zero",
	} {
		assert.NilError(t, os.Symlink(target, filepath.Join(dir, link)))
	}
	assert.NilError(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	sparse, err := os.Create(filepath.Join(dir, "sparse"))
	assert.NilError(t, err)
	assert.NilError(t, sparse.Truncate(1<<62))
	_, err = sparse.WriteAt([]byte("end"), 1<<61)
	assert.NilError(t, err)
	assert.NilError(t, sparse.Close())
	outside := []string{filepath.Join(other, "db"), filepath.Join(f.pool.Dir, "host"), filepath.Join(dir, "nested", "db")}
	assert.NilError(t, f.fs.Commit(t.Context()))
	before := map[string]string{}
	for _, path := range outside {
		before[path] = extents(t, path)
	}

	task := f.ended(f.start(defragmentV).ID)
	assert.Equal(t, task.Status, Completed, task.Error)
	assert.DeepEqual(t, task.Result, Result{"files": 1, "bytes": 4096, "skipped": 1, "without_room": 0})
	for _, path := range outside {
		assert.Equal(t, extents(t, path), before[path], path)
	}
}

// Without room under the limit, the error of the task says what to do, and the limit does not
// change.
func TestDefragmentWithoutRoom(t *testing.T) {
	f := newFixture(t)
	dir, id := f.volume("v")
	f.overwrite(filepath.Join(dir, "db"), 16*mib, 2000)
	limit := f.used(id) + mib
	assert.NilError(t, f.fs.SetLimit(id, uint64(limit)))
	task := f.ended(f.start(defragmentV).ID)
	assert.Equal(t, task.Status, Failed)
	assert.Assert(t, strings.Contains(task.Error, "grow the volume"), task.Error)
	group, err := f.fs.Qgroup(id)
	assert.NilError(t, err)
	assert.Equal(t, group.MaxReferenced, uint64(limit))
	assert.Equal(t, task.Result["without_room"], int64(1))
	assert.Equal(t, f.used(id), limit-mib, "the attempt has filled the volume")

	assert.NilError(t, f.fs.SetLimit(id, uint64(limit+32*mib)))
	task = f.ended(f.start(defragmentV).ID)
	assert.Equal(t, task.Status, Completed, task.Error)
	used := f.used(id)
	assert.Assert(t, used < 18*mib, "%d", used)
}

// A defragmentation reports its progress and can be canceled. Only one runs at a time.
func TestDefragmentIsCancelled(t *testing.T) {
	f := newFixture(t)
	dir, _ := f.volume("v")
	for i := range 3000 {
		assert.NilError(t, os.WriteFile(filepath.Join(dir, fmt.Sprint("file", i)), make([]byte, 64<<10), 0o600))
	}
	assert.NilError(t, f.fs.Commit(t.Context()))
	task := f.start(defragmentV)
	_, err := f.Start("b", defragmentV)
	assert.Equal(t, agentapi.CodeOf(err), agentapi.Busy)
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		now, err := f.Get("a", task.ID)
		assert.NilError(t, err)
		if now.Progress == 0 {
			return poll.Continue("no progress")
		}
		assert.Assert(t, now.Progress < 1 || now.Status != Running, "%+v", now)
		return poll.Success()
	})
	assert.NilError(t, f.Delete(t.Context(), "a", task.ID))
	ended, err := f.Get("a", task.ID)
	assert.NilError(t, err)
	assert.Equal(t, ended.Status, Cancelled, ended.Error)
	assert.Assert(t, ended.Result["files"] < 3000, "%v", ended.Result)
}

// A missing volume, or one that shares data, is refused at once.
func TestDefragmentIsRefused(t *testing.T) {
	f := newFixture(t)
	f.config.Defragmentable = func(tenant, volume string, force bool) (string, error) {
		return "", agentapi.Errorf(agentapi.NotFound, "%s %s %t", tenant, volume, force)
	}
	_, err := f.Start("a", Spec{Type: "defragment", Options: map[string]string{"volume": "v", "force": "true"}})
	assert.Equal(t, agentapi.CodeOf(err), agentapi.NotFound)
	assert.Error(t, err, "a v true")
	tasks, err := f.List("a", nil)
	assert.NilError(t, err)
	assert.Equal(t, len(tasks), 0)

	// The volume is deleted before the work begins.
	f.config.Defragmentable = func(string, string, bool) (string, error) { return "a/gone/data", nil }
	assert.Equal(t, f.ended(f.start(defragmentV).ID).Status, Failed)
	assert.NilError(t, f.fs.Commit(context.Background()))
}
