package storage

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// An administrator has moved the data of volumes and snapshots away. During any request, their
// directories, metadata and references stay. When the data is back, everything is as before.
func TestDataMovedAway(t *testing.T) {
	requests := map[string]func(ctx context.Context, ten *Tenant, name string) error{
		"attach": func(ctx context.Context, ten *Tenant, name string) error {
			_, err := ten.Export(ctx, name, ExportSpec{Client: client2})
			return err
		},
		"patch": func(ctx context.Context, ten *Tenant, name string) error {
			_, err := ten.UpdateVolume(ctx, name, VolumeUpdate{RequestedProperties: chosen{Mode: ptr("0700")}})
			return err
		},
		"labels": func(ctx context.Context, ten *Tenant, name string) error {
			_, err := ten.UpdateVolume(ctx, name, VolumeUpdate{Labels: map[string]string{"a": "b"}})
			return err
		},
		"snapshot": func(ctx context.Context, ten *Tenant, name string) error {
			_, _, err := ten.CreateSnapshot(ctx, SnapshotSpec{Name: "of-" + name, Volume: name})
			return err
		},
		"clone": func(ctx context.Context, ten *Tenant, name string) error {
			_, _, err := ten.Clone(ctx, CloneSpec{Name: "from-" + name, Volume: name})
			return err
		},
		"clone of the snapshot": func(ctx context.Context, ten *Tenant, _ string) error {
			_, _, err := ten.Clone(ctx, CloneSpec{Name: "from-s", Snapshot: "s"})
			return err
		},
		"nothing": func(context.Context, *Tenant, string) error { return errors.New("not asked") },
	}
	for name, request := range requests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newTestEnv(t, testpool.Options{})
			withExport(t, r.ten)
			_, _, err := r.ten.CreateSnapshot(t.Context(), SnapshotSpec{Name: "s", Volume: "v"})
			assert.NilError(t, err)
			_, _, err = r.ten.Clone(t.Context(), CloneSpec{Name: "c", Volume: "v"})
			assert.NilError(t, err)
			before := r.view()
			dirs := map[string]string{"v": r.ten.volumeDir.Path("v"), "c": r.ten.volumeDir.Path("c"), "s": r.ten.snapshotDir.Path("s")}
			files := map[string][]string{}
			for thing, dir := range dirs {
				r.moveAway(dir)
				files[thing] = everythingIn(t, dir)
			}

			for range 3 { // the first failure makes the agent inspect the directory
				assert.Assert(t, request(t.Context(), r.ten, "v") != nil)
				assert.Assert(t, request(t.Context(), r.ten, "c") != nil)
				r.store.maintain(t.Context())
				assert.NilError(t, r.store.reconcileExports(t.Context()))
			}
			for thing, dir := range dirs {
				assert.DeepEqual(t, everythingIn(t, dir), files[thing])
			}
			r.store.abandon()
			_, err = Inspect(t.Context(), r.config(), true)
			assert.NilError(t, err)
			r.open()
			for thing, dir := range dirs {
				assert.DeepEqual(t, everythingIn(t, dir), files[thing])
			}
			v := mustGet(t, r.ten, "v")
			assert.Equal(t, v.Quarantine, "its subvolume is missing, and clients have references to it")
			assert.Equal(t, mustGet(t, r.ten, "c").Quarantine, "its subvolume is missing")
			s, err := r.ten.GetSnapshot(t.Context(), "s")
			assert.NilError(t, err)
			assert.Equal(t, s.Quarantine, "its subvolume is missing")
			assertCode(t, r.ten.DeleteVolume(t.Context(), "c"), agentapi.Quarantined)
			assertCode(t, r.ten.DeleteSnapshot(t.Context(), "s"), agentapi.Quarantined)

			for _, dir := range dirs {
				r.putBack(dir)
			}
			r.store.abandon()
			r.open()
			assert.DeepEqual(t, r.view(), before)
			assertRules(t, r.store)
		})
	}
}

// A client of a volume without data can be unexported. The reference is then gone permanently.
func TestUnexportWithoutData(t *testing.T) {
	r := newTestEnv(t, testpool.Options{})
	withExport(t, r.ten)
	r.moveAway(r.ten.volumeDir.Path("v"))
	r.store.abandon()
	r.open()
	exported := len(r.exporter.list())
	assert.NilError(t, r.ten.Unexport(t.Context(), "v", client1, nil))
	assert.Equal(t, len(r.exporter.list()), exported-1)
	r.putBack(r.ten.volumeDir.Path("v"))
	r.store.abandon()
	r.open()
	assert.Equal(t, len(mustGet(t, r.ten, "v").Refs), 0)
	assertRules(t, r.store)
}

// If the whole directory of a volume is gone, the server still revokes a client's access to its
// path. The request returns the result of the server.
func TestUnexportWithoutVolume(t *testing.T) {
	r := newTestEnv(t, testpool.Options{})
	withExport(t, r.ten)
	before := len(r.exporter.list())
	aside := filepath.Join(r.pool.Dir, "aside")
	assert.NilError(t, os.Rename(r.ten.volumeDir.Path("v"), aside))
	_, err := r.ten.UpdateVolume(t.Context(), "v", VolumeUpdate{RequestedProperties: chosen{Mode: ptr("0700")}})
	assert.Assert(t, err != nil, "which makes the agent look at the directory")
	_, err = r.ten.UpdateVolume(t.Context(), "v", VolumeUpdate{RequestedProperties: chosen{Mode: ptr("0700")}})
	assertCode(t, err, agentapi.NotFound)

	r.exporter.setFail(nfs.ErrUnavailable)
	for range 2 {
		assertCode(t, r.ten.Unexport(t.Context(), "v", client1, pod("1")), agentapi.Unavailable)
	}
	r.exporter.setFail(nil)
	assert.Equal(t, len(r.exporter.list()), before)
	assert.NilError(t, r.ten.Unexport(t.Context(), "v", client1, pod("1")))
	assert.Equal(t, len(r.exporter.list()), before-1)
	assert.NilError(t, r.ten.Unexport(t.Context(), "never", client1, nil))
	_, err = r.ten.GetVolume(t.Context(), "v")
	assertCode(t, err, agentapi.NotFound)
	assertExports(t, r.store)
}

// A renamed or copied directory of a volume gives no client access under its new name. An unpublish
// of the volume revokes access only to the directory of the volume. When the directory has its name
// again, its clients have access.
func TestVolumeUnderAnotherName(t *testing.T) {
	r := newTestEnv(t, testpool.Options{})
	withExport(t, r.ten)
	before := r.exporter.list()
	assert.NilError(t, os.Rename(r.ten.volumeDir.Path("v"), r.ten.volumeDir.Path("w")))
	assert.NilError(t, r.store.Close(t.Context()))
	r.open()
	assert.Assert(t, mustGet(t, r.ten, "w").Quarantine != "")
	for _, e := range r.exporter.list() {
		assert.Assert(t, e.Path != filepath.Join(r.ten.volumeDir.Path("w"), dataDir), "%v", e)
	}
	assert.NilError(t, os.Rename(r.ten.volumeDir.Path("w"), r.ten.volumeDir.Path("v")))
	assert.NilError(t, r.store.Close(t.Context()))
	r.open()
	assert.Assert(t, slices.Equal(r.exporter.list(), before))
	assertRules(t, r.store)
}

// The data is restored just before any step of the removal of an interrupted clone. The agent never
// removes it.
func TestDataPutBackAtTheWrongMoment(t *testing.T) {
	r := newTestEnv(t, testpool.Options{})
	withVolume(t, r.ten)
	clone := func() error {
		_, _, err := r.ten.Clone(t.Context(), CloneSpec{Name: "c", Volume: "v"})
		return err
	}
	interrupted := func() {
		r.faults.killBefore("snapshot")
		assert.ErrorIs(t, clone(), errKilled)
		r.store.abandon()
		r.faults.disarm()
	}
	interrupted()
	r.faults.arm(math.MaxInt, math.MaxInt, nil)
	r.open()
	steps := r.faults.disarm()
	assert.Assert(t, len(steps) > 2)
	for k := range steps {
		assert.NilError(t, r.ten.DeleteVolume(t.Context(), "c"))
		interrupted()
		n := 0
		aside := filepath.Join(r.pool.Dir, "aside")
		r.faults.watch(func(string) {
			if n++; n != k+1 {
				return
			}
			pool := openPath(t, r.pool.Dir)
			defer pool.Close()
			assert.NilError(t, btrfs.CreateSubvolume(pool, "aside"))
			assert.NilError(t, os.WriteFile(filepath.Join(aside, "file"), []byte("precious"), 0o600))
			for _, to := range []string{r.ten.volumeDir.Path("c"), r.ten.volumeDir.Path("elsewhere")} {
				_ = os.Mkdir(r.ten.volumeDir.Path("elsewhere"), 0o700)
				if os.Rename(aside, filepath.Join(to, dataDir)) == nil {
					return
				}
			}
			t.Error("the data has no place")
		})
		r.open()
		r.faults.watch(nil)
		kept := contents(t, r.ten.volumeDir.Path("c")) + contents(t, r.ten.volumeDir.Path("elsewhere"))
		assert.Equal(t, kept, "precious", "put back before step %d of %v", k+1, steps)
		for _, name := range []string{"c", "elsewhere"} {
			if _, err := os.Stat(filepath.Join(r.ten.volumeDir.Path(name), dataDir)); err == nil {
				dir := openPath(t, r.ten.volumeDir.Path(name))
				assert.NilError(t, btrfs.DestroyTree(dir, dataDir))
				assert.NilError(t, dir.Close())
			}
			assert.NilError(t, os.RemoveAll(r.ten.volumeDir.Path(name)))
		}
		r.store.abandon()
		r.open()
	}
}

// A deletion on a filesystem that is too full to rename is interrupted at any step. The next start
// finishes it.
func TestDeletionInPlaceIsFinished(t *testing.T) {
	for _, prepare := range []func(testing.TB, *Tenant){withVolume, wasExported} {
		r := newTestEnv(t, testpool.Options{})
		full := func() {
			r.faults.fail(unix.ENOSPC, "rename")
		}
		prepare(t, r.ten)
		full()
		r.faults.arm(math.MaxInt, math.MaxInt, nil)
		assert.NilError(t, r.ten.DeleteVolume(t.Context(), "v"))
		steps := r.faults.disarm()
		marked := 0
		for k, step := range steps {
			if step == "mark" {
				marked = k + 2
			}
		}
		assert.Assert(t, marked > 0)
		for k := marked; k <= len(steps); k++ {
			r.faults.fail(nil)
			prepare(t, r.ten)
			full()
			r.faults.kill(k)
			assert.ErrorIs(t, r.ten.DeleteVolume(t.Context(), "v"), errKilled)
			r.store.abandon()
			r.faults.disarm()
			r.open()
			_, err := r.ten.GetVolume(t.Context(), "v")
			assertCode(t, err, agentapi.NotFound)
		}
		r.faults.fail(nil)
		prepare(t, r.ten) // in one case an empty directory is left
		assertRules(t, r.store)
	}
}

// An interrupted clone of an agent that set no mark leaves metadata. It cannot be told from the
// metadata of a volume whose data was moved.
func TestUnmarkedLeftovers(t *testing.T) {
	r := newTestEnv(t, testpool.Options{})
	withVolume(t, r.ten)
	_, _, err := r.ten.Clone(t.Context(), CloneSpec{Name: "c", Volume: "v"})
	assert.NilError(t, err)
	r.store.abandon()
	c := openPath(t, r.ten.volumeDir.Path("c"))
	assert.NilError(t, btrfs.DestroyTree(c, dataDir))
	assert.NilError(t, os.Mkdir(r.ten.volumeDir.Path("empty"), 0o700))
	r.open()
	assert.Equal(t, mustGet(t, r.ten, "c").Quarantine, "its subvolume is missing")
	_, err = r.ten.GetVolume(t.Context(), "empty")
	assertCode(t, err, agentapi.NotFound)
	mustCreate(t, r.ten, "empty")
	_, err = os.Stat(r.ten.volumeDir.Path("c"))
	assert.NilError(t, err)
}

// The mark of a creation that was interrupted after the snapshot means nothing, and the agent
// clears it.
func TestMarkOfWholeClone(t *testing.T) {
	r := newTestEnv(t, testpool.Options{})
	withVolume(t, r.ten)
	r.faults.killBefore("clear mark")
	_, _, err := r.ten.Clone(t.Context(), CloneSpec{Name: "c", Volume: "v"})
	assert.ErrorIs(t, err, errKilled)
	r.store.abandon()
	r.faults.disarm()
	_, mark, err := ondisk.ReadMetadata(openPath(t, r.ten.volumeDir.Path("c")))
	assert.NilError(t, err)
	assert.Equal(t, mark, ondisk.Creating)
	r.open()
	assert.Equal(t, contents(t, r.ten.volumeDir.Path("c")), "of v")
	assertRules(t, r.store)
}

// moveAway moves the data in dir out of the tenants of the pool.
func (r *testEnv) moveAway(dir string) {
	r.t.Helper()
	moveSubvolume(r.t, filepath.Join(dir, dataDir), r.aside(dir))
}

func (r *testEnv) putBack(dir string) {
	r.t.Helper()
	moveSubvolume(r.t, r.aside(dir), filepath.Join(dir, dataDir))
}

func (r *testEnv) aside(dir string) string {
	return filepath.Join(r.pool.Dir, "aside-"+filepath.Base(dir))
}

// moveSubvolume makes the subvolume writable during the move, because the kernel refuses to move a
// read-only one.
func moveSubvolume(t *testing.T, from, to string) {
	t.Helper()
	f := openPath(t, from)
	defer f.Close()
	info, err := btrfs.Subvolume(f)
	assert.NilError(t, err)
	assert.NilError(t, btrfs.SetReadOnly(f, false))
	assert.NilError(t, os.Rename(from, to))
	assert.NilError(t, btrfs.SetReadOnly(f, info.ReadOnly))
}

// everythingIn lists files with their contents.
func everythingIn(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	assert.NilError(t, filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return errors.Join(err)
		}
		content, err := os.ReadFile(path)
		out = append(out, path+": "+string(content))
		return err
	}))
	return out
}
