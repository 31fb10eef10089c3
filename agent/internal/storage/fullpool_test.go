package storage

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// tinyPool fills up quickly.
var tinyPool = testpool.Options{SizeBytes: 300 << 20}

var fullClient = netip.MustParseAddr("10.0.0.7")

// Clients have filled up a pool with data, or with so many small files that there is no room for
// metadata. In the second case btrfs stops although df still shows free space.
func TestFullPool(t *testing.T) {
	for _, full := range []struct {
		name string
		fill func(dir string) error
	}{
		{"data", fillWithData},
		{"metadata", func(dir string) error { return errors.Join(fillWithData(dir), fillWithMetadata(dir)) }},
	} {
		t.Run(full.name, func(t *testing.T) {
			t.Parallel()
			ten, exporter := almostFullPool(t)
			hog, err := ten.GetVolume(t.Context(), "hog")
			assert.NilError(t, err)
			assert.NilError(t, full.fill(filepath.Join(hog.Path, dataDir)))
			assert.NilError(t, commitNow(ten.store))

			assertNothingIsMade(t, ten)
			for round := range 2 {
				assertChangesAreWhole(t, ten, byte(round))
				assert.NilError(t, full.fill(filepath.Join(hog.Path, dataDir)))
				ten.store.pool.FillReserve()
			}
			want := viewOf(t, ten)
			assert.NilError(t, ten.store.Close(t.Context()))
			ten = mustTenant(t, open(t, Config{BasePath: ten.store.config.BasePath}, exporter))
			assert.DeepEqual(t, viewOf(t, ten), want)
			assertRules(t, ten.store)
			assertThingsGo(t, ten, exporter)
			assertRoomAgain(t, ten)
		})
	}
}

// A pool that was full at the first start has no reserve. Its health still reports that it is full.
func TestFullPoolWithoutAReserve(t *testing.T) {
	r := newTestEnv(t, smallPool)
	mustCreate(t, r.ten, "v")
	assert.NilError(t, os.RemoveAll(filepath.Join(r.pool.Dir, ownDir, reserveDir)))
	r.faults.fail(unix.ENOSPC, "write", "link")
	_, err := r.ten.Export(t.Context(), "v", ExportSpec{Client: client1})
	assertCode(t, err, agentapi.NoSpace)
}

// The quota of the subvolume of the base path is reached. Unexports still revoke the access of
// clients.
func TestQuotaOfBasePath(t *testing.T) {
	r := newTestEnvWith(t, smallPool, QuotaFull)
	mustCreate(t, r.ten, "v")
	r.export(client1, "1")
	r.export(client2, "1")
	base, err := btrfs.Subvolume(r.store.pool.Base())
	assert.NilError(t, err)
	assert.NilError(t, fsOf(t, r.store).SetLimit(base.ID, 1))
	assert.NilError(t, commitNow(r.store))
	probe := filepath.Join(r.pool.Dir, "probe")
	assert.ErrorIs(t, os.Mkdir(probe, 0o700), unix.EDQUOT)

	marks := 0
	r.faults.watch(func(step string) {
		if step == "rename" {
			marks++
		}
	})
	for _, client := range []netip.Addr{client1, client2} {
		assert.NilError(t, r.ten.Unexport(t.Context(), "v", client, nil))
		assert.Equal(t, r.fsid(client), uuid.Nil)
	}
	r.faults.watch(nil)
	assert.Equal(t, marks, 2)
	r.store.abandon()
	r.open()
	assert.Equal(t, len(mustGet(t, r.ten, "v").Refs), 0)
}

// A first start on a full pool works, or fails because there is no room. With room it works, and
// nothing is left of the earlier start.
func TestFirstStartOnAFullPool(t *testing.T) {
	t.Parallel()
	pool := testpool.New(t, tinyPool)
	base, others := filepath.Join(pool.Dir, "base"), filepath.Join(pool.Dir, "others")
	for _, dir := range []string{base, others} {
		assert.NilError(t, os.Mkdir(dir, 0o755))
	}
	assert.NilError(t, fillWithData(others))
	assert.NilError(t, fillWithMetadata(others))
	config := Config{BasePath: base, Tenants: []string{tenant}}
	initAndOpen := func() (*Store, error) {
		if _, _, err := initPool(config); err != nil {
			return nil, err
		}
		return Open(t.Context(), config, newMemoryExporter())
	}
	s, err := initAndOpen()
	if err == nil {
		ten, err := s.Tenant(tenant)
		if err == nil {
			_, _, err = ten.CreateVolume(t.Context(), VolumeSpec{Name: "new", SizeBytes: 16 * mib})
		}
		assert.Assert(t, ondisk.IsFull(err) || agentapi.CodeOf(err) == agentapi.NoSpace, "%v", err)
		assert.NilError(t, s.Close(t.Context()))
	} else {
		assert.Assert(t, ondisk.IsFull(err), "%v", err)
	}

	assert.NilError(t, os.RemoveAll(others))
	testpool.Eventually(t, func() poll.Result { // the kernel cleans up in the background
		if s, err = initAndOpen(); ondisk.IsFull(err) {
			return poll.Continue("%v", err)
		}
		assert.NilError(t, err)
		if _, err := s.Tenant(tenant); err != nil {
			assert.NilError(t, s.Close(t.Context()))
			return poll.Continue("%v", err)
		}
		return poll.Success()
	})
	assertRoomAgain(t, mustTenant(t, s))
	assertRules(t, s)
	assert.NilError(t, s.Close(t.Context()))
}

// almostFullPool returns a pool with a volume that may fill it, and one volume, snapshot and clone
// to work with.
func almostFullPool(t *testing.T) (*Tenant, *memoryExporter) {
	t.Helper()
	pool, exporter := testpool.New(t, tinyPool), newMemoryExporter()
	base := filepath.Join(pool.Dir, "base")
	assert.NilError(t, os.Mkdir(base, 0o755))
	ten := mustTenant(t, open(t, Config{BasePath: base}, exporter))
	ctx := t.Context()
	space, err := fsOf(t, ten.store).Space()
	assert.NilError(t, err)
	_, _, err = ten.CreateVolume(ctx, VolumeSpec{Name: "hog", SizeBytes: int64(space.TotalBytes)})
	assert.NilError(t, err)
	mustCreate(t, ten, "v")
	mustCreate(t, ten, "other")
	_, _, err = ten.CreateSnapshot(ctx, SnapshotSpec{Name: "s", Volume: "v"})
	assert.NilError(t, err)
	for _, name := range []string{"v", "other"} {
		_, err = ten.Export(ctx, name, ExportSpec{Client: fullClient})
		assert.NilError(t, err)
	}
	// A snapshot as snapper takes them of the system's root. It must not keep the space that the
	// agent frees.
	btrfsCommand(t, "subvolume", "snapshot", "-r", pool.Dir, filepath.Join(pool.Dir, "snapshot"))
	return ten, exporter
}

// fillWithData returns when there is no more room, or another error.
func fillWithData(dir string) error {
	return fillUp(dir, 1000, func(path string) error { return writeFull(path, 4<<20) })
}

// fillWithMetadata creates symbolic links, whose text needs no room for data.
func fillWithMetadata(dir string) error {
	text := strings.Repeat("-", 3000)
	return fillUp(dir, 1_000_000, func(path string) error { return os.Symlink(text, path) })
}

func fillUp(dir string, most int, add func(path string) error) error {
	dir, err := os.MkdirTemp(dir, "fill-")
	for i := 0; err == nil && i < most; i++ {
		err = add(filepath.Join(dir, fmt.Sprint(i)))
	}
	if ondisk.IsFull(err) {
		return nil
	}
	return errors.Join(err, errors.New("the pool does not fill up"))
}

func writeFull(path string, size int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	content := make([]byte, size)
	for i := range content {
		content[i] = byte(i * 31)
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func assertNothingIsMade(t *testing.T, ten *Tenant) {
	t.Helper()
	ctx := t.Context()
	before := viewOf(t, ten)
	_, _, err := ten.CreateVolume(ctx, VolumeSpec{Name: "new", SizeBytes: 16 * mib})
	assertCode(t, err, agentapi.NoSpace)
	_, _, err = ten.CreateSnapshot(ctx, SnapshotSpec{Name: "new", Volume: "v"})
	assertCode(t, err, agentapi.NoSpace)
	_, _, err = ten.Clone(ctx, CloneSpec{Name: "new", Volume: "v"})
	assertCode(t, err, agentapi.NoSpace)
	_, _, err = ten.Clone(ctx, CloneSpec{Name: "new", Snapshot: "s"})
	assertCode(t, err, agentapi.NoSpace)
	assert.DeepEqual(t, viewOf(t, ten), before)
	found := reasons(ten.store.Conditions())
	assert.DeepEqual(t, found, []string{"PoolNearlyFull"})
	assertRules(t, ten.store)
}

// assertChangesAreWhole makes changes that write metadata. Each one succeeds or is NoSpace, and the
// state on disk is complete. Clients can attach.
func assertChangesAreWhole(t *testing.T, ten *Tenant, round byte) {
	t.Helper()
	ctx := t.Context()
	for i := range 5 {
		_, err := ten.UpdateVolume(ctx, "v", VolumeUpdate{Labels: map[string]string{"round": fmt.Sprint(i)}})
		assert.Assert(t, err == nil || agentapi.CodeOf(err) == agentapi.NoSpace, "%v", err)
		_, err = ten.Export(ctx, "other", ExportSpec{Client: netip.AddrFrom4([4]byte{10, 1, round, byte(i)})})
		assert.NilError(t, err)
	}
	assertRules(t, ten.store) // reads all metadata
}

// assertThingsGo unexports and deletes everything without free space.
func assertThingsGo(t *testing.T, ten *Tenant, exporter *memoryExporter) {
	t.Helper()
	ctx := t.Context()
	for _, name := range []string{"v", "other"} {
		v, err := ten.GetVolume(ctx, name)
		assert.NilError(t, err)
		for _, e := range ten.store.exportsOf(v, v.Clients()...) {
			assert.NilError(t, ten.Unexport(ctx, name, e.Client, nil))
		}
	}
	assert.DeepEqual(t, exporter.list(), []nfs.Export{})
	assert.NilError(t, ten.DeleteSnapshot(ctx, "s"))
	assert.NilError(t, ten.DeleteVolume(ctx, "v"))
	assert.NilError(t, ten.DeleteVolume(ctx, "other"))
	assert.NilError(t, ten.DeleteVolume(ctx, "hog"))
	assertRules(t, ten.store)
}

// assertRoomAgain waits until the kernel has cleaned up, and then repeats the refused creations.
func assertRoomAgain(t *testing.T, ten *Tenant) {
	t.Helper()
	testpool.Eventually(t, func() poll.Result {
		_, _, err := ten.CreateVolume(t.Context(), VolumeSpec{Name: "new", SizeBytes: 16 * mib})
		if agentapi.CodeOf(err) == agentapi.NoSpace {
			return poll.Continue("%v", err)
		}
		assert.NilError(t, err)
		return poll.Success()
	})
	v, err := ten.GetVolume(t.Context(), "new")
	assert.NilError(t, err)
	assert.NilError(t, writeBytes(v.Path, "file", 2*mib))
	assert.Equal(t, len(ten.store.Conditions()), 0, "%v", ten.store.Conditions())
	assertRules(t, ten.store)
}

// The pool fills up while volumes, snapshots and references are created. A refused one does not
// exist, and an acknowledged one is complete, also after the next start.
func TestPoolFillsUpUnderChanges(t *testing.T) {
	t.Parallel()
	ten, exporter := almostFullPool(t)
	ctx := t.Context()
	hog, err := ten.GetVolume(ctx, "hog")
	assert.NilError(t, err)
	filled := make(chan struct{})
	go func() {
		defer close(filled)
		dir := filepath.Join(hog.Path, dataDir)
		assert.Check(t, errors.Join(fillWithData(dir), fillWithMetadata(dir)))
	}()
	together(4, func(worker int) {
		for i := 0; ; i++ {
			name := fmt.Sprintf("w%d-%d", worker, i)
			_, _, err := ten.CreateVolume(ctx, VolumeSpec{Name: name, SizeBytes: 16 * mib})
			if err == nil {
				_, err = ten.Export(ctx, name, ExportSpec{Client: fullClient})
			}
			if err == nil {
				_, _, err = ten.CreateSnapshot(ctx, SnapshotSpec{Name: name, Volume: name})
			}
			if err != nil {
				assert.Check(t, agentapi.CodeOf(err) == agentapi.NoSpace, "%v", err)
			}
			select {
			case <-filled:
				return
			default:
			}
		}
	})
	ten.store.reloadAll(ctx)
	assertRules(t, ten.store)
	want := viewOf(t, ten)
	assert.NilError(t, ten.store.Close(ctx))

	again := mustTenant(t, reopened(t, Config{BasePath: ten.store.config.BasePath, Tenants: []string{tenant}}, exporter))
	defer again.store.abandon()
	assert.DeepEqual(t, viewOf(t, again), want)
	assertRules(t, again.store)
	for _, v := range again.volumes.all() {
		assert.NilError(t, again.Unexport(ctx, v.Name, fullClient, nil))
		assert.NilError(t, again.DeleteVolume(ctx, v.Name))
	}
}
