package storage

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

// assertRules checks the invariants of a store without running changes. Catalogue, disk, kernel and
// NFS server agree, and nothing is left over.
func assertRules(t testing.TB, s *Store) {
	t.Helper()
	assertNothingHeld(t, s)
	subvolumes := map[string]btrfs.SubvolumeRef{}
	for _, ten := range s.Tenants() {
		assertDirectories(t, ten)
		for _, v := range ten.volumes.all() {
			assertVolumeOnDisk(t, ten, v)
			subvolumes[ten.name+"/"+v.Name+"/"+dataDir] = btrfs.SubvolumeRef{ID: v.ID, UUID: v.UUID}
		}
		for _, snap := range ten.snapshots.all() {
			assertSnapshotOnDisk(t, ten, snap)
			subvolumes[ten.name+"/snapshots/"+snap.Name+"/"+dataDir] = btrfs.SubvolumeRef{ID: snap.ID, UUID: snap.UUID, ReadOnly: true}
		}
	}
	assertSubvolumes(t, s, subvolumes)
	assertLimits(t, s)
	assertExports(t, s)
}

// assertNothingHeld verifies that no lock or name is held, and no change is in flight.
func assertNothingHeld(t testing.TB, s *Store) {
	t.Helper()
	s.inFlight.mu.Lock()
	assert.Equal(t, s.inFlight.count, 0)
	s.inFlight.mu.Unlock()
	s.locks.mu.Lock()
	assert.Equal(t, len(s.locks.pairs), 0)
	s.locks.mu.Unlock()
}

func assertDirectories(t testing.TB, ten *Tenant) {
	t.Helper()
	volumes := []string{snapshotsDir}
	for _, v := range ten.volumes.all() {
		volumes = append(volumes, v.Name)
	}
	assert.DeepEqual(t, entries(t, ten.volumeDir.Path("")), sorted(volumes))
	snapshots := []string{}
	for _, snap := range ten.snapshots.all() {
		snapshots = append(snapshots, snap.Name)
	}
	assert.DeepEqual(t, entries(t, ten.snapshotDir.Path("")), sorted(snapshots))
	assert.DeepEqual(t, entries(t, filepath.Join(ten.store.pool.Path(), ownDir)), []string{poolIDFile, keyFile, lockFile, reserveDir})
}

func assertVolumeOnDisk(t testing.TB, ten *Tenant, v Volume) {
	t.Helper()
	assert.Equal(t, v.Quarantine, "", "volume %s", v.Name)
	dir := openPath(t, v.Path)
	defer dir.Close()
	m := readMetadata(t, dir, v.Name)
	onDisk := m.AsVolume()
	assert.DeepEqual(t, onDisk.Properties, v.Properties)
	assert.Equal(t, onDisk.VolumeID, v.VolumeID)
	assert.Equal(t, formatLabels(onDisk.Labels), formatLabels(v.Labels))
	assert.Equal(t, onDisk.SourceVolume+"|"+onDisk.SourceSnapshot, v.SourceVolume+"|"+v.SourceSnapshot)
	assert.Equal(t, onDisk.CreatedAt, v.CreatedAt)
	assert.Equal(t, onDisk.UpdatedAt, v.UpdatedAt)
	refs, err := ondisk.ReadRefs(dir)
	assert.NilError(t, err)
	assert.DeepEqual(t, refs, v.Refs, compareAddr, cmpopts.EquateEmpty())

	want := []string{dataDir, metadataFile}
	files := []string{}
	for _, ref := range v.Refs {
		files = append(files, ref.FileName())
	}
	if have := entries(t, v.Path); slices.Contains(have, clientsDir) {
		want = append(want, clientsDir)
		assert.DeepEqual(t, entries(t, filepath.Join(v.Path, clientsDir)), sorted(files))
	} else {
		assert.Equal(t, len(files), 0)
	}
	assert.DeepEqual(t, entries(t, v.Path), sorted(want))
	assertRoot(t, v.Path, v.Properties)
}

// readMetadata reads metadata without a running change.
func readMetadata(t testing.TB, dir *os.File, name string) ondisk.Metadata {
	t.Helper()
	m, mark, err := ondisk.ReadMetadata(dir)
	assert.NilError(t, err)
	assert.NilError(t, m.IsOf(name))
	assert.Equal(t, mark, ondisk.NoMark, "%s", name)
	assert.Equal(t, len(m.Changes), 0, "%s", name)
	return m
}

func assertSnapshotOnDisk(t testing.TB, ten *Tenant, s Snapshot) {
	t.Helper()
	assert.Equal(t, s.Quarantine, "", "snapshot %s", s.Name)
	dir := openPath(t, s.Path)
	defer dir.Close()
	m := readMetadata(t, dir, s.Name)
	onDisk := m.AsSnapshot()
	data := openPath(t, filepath.Join(s.Path, dataDir))
	defer data.Close()
	info, err := btrfs.Subvolume(data)
	assert.NilError(t, err)
	onDisk.ID, onDisk.UUID, onDisk.ParentUUID, onDisk.Path = info.ID, info.UUID, info.ParentUUID, s.Path
	assert.DeepEqual(t, onDisk, s)
	assert.DeepEqual(t, entries(t, s.Path), []string{dataDir, metadataFile})
}

// assertRoot compares the root directory of the data of a volume with the properties.
func assertRoot(t testing.TB, dir string, p Properties) {
	t.Helper()
	f := openPath(t, filepath.Join(dir, dataDir))
	defer f.Close()
	var stat unix.Stat_t
	assert.NilError(t, unix.Fstat(int(f.Fd()), &stat))
	assert.Equal(t, int64(stat.Uid), p.UID)
	assert.Equal(t, int64(stat.Gid), p.GID)
	assert.Equal(t, stat.Mode&0o7777, p.Mode, "mode is %o, want %o", stat.Mode, p.Mode)
	compression, err := btrfs.Compression(f)
	assert.NilError(t, err)
	if !p.NoCOW { // btrfs stores no compression together with NoCOW, not even "none"
		assert.Equal(t, compression, p.Compression)
	}
	nocow, err := btrfs.NoCOW(f)
	assert.NilError(t, err)
	assert.Equal(t, nocow, p.NoCOW)
}

// assertSubvolumes verifies that exactly these subvolumes are below the base path.
func assertSubvolumes(t testing.TB, s *Store, want map[string]btrfs.SubvolumeRef) {
	t.Helper()
	have := map[string]btrfs.SubvolumeRef{}
	for path, sub := range testpool.Subvolumes(t, s.pool.Base().Name()) {
		have[path] = btrfs.SubvolumeRef{ID: sub.ID, UUID: sub.UUID, ReadOnly: sub.ReadOnly}
	}
	_, found := have[ownDir+"/"+reserveDir]
	assert.Assert(t, found, "%v", have)
	delete(have, ownDir+"/"+reserveDir)
	assert.DeepEqual(t, have, want)
}

// assertLimits verifies that limits are as intended, and that no qgroup of a destroyed subvolume is
// left.
func assertLimits(t testing.TB, s *Store) {
	t.Helper()
	fs := fsOf(t, s)
	defer fs.Close() // a test may unmount the pool
	if s.pool.Quota() == QuotaOff {
		return
	}
	groups, err := fs.Qgroups()
	assert.NilError(t, err)
	for _, ten := range s.Tenants() {
		for _, v := range ten.volumes.all() {
			assert.Equal(t, int64(groups[v.ID].MaxReferenced), v.QuotaBytes, "limit of %s", v.Name)
		}
	}
	if s.pool.Quota() == QuotaSimple {
		return // qgroups stay while clones use the data
	}
	// The kernel drops a subvolume and then its qgroup. Between the two the qgroup looks stale.
	testpool.Eventually(t, func() poll.Result {
		stale, _, err := fs.StaleQgroups(t.Context())
		if err != nil || len(stale) > 0 {
			return poll.Continue("stale qgroups: %v %v", stale, err)
		}
		return poll.Success()
	})
}

// assertExports verifies that the NFS server serves exactly the intended exports.
func assertExports(t testing.TB, s *Store) {
	t.Helper()
	want := s.intendedExports()
	have, err := s.exporter.List(t.Context())
	assert.NilError(t, err)
	byKey := func(a, b nfs.Export) int {
		return strings.Compare(a.Path+" "+a.Client.String(), b.Path+" "+b.Client.String())
	}
	slices.SortFunc(want, byKey)
	slices.SortFunc(have, byKey)
	assert.Equal(t, len(have), len(want), "exports are %v, want %v", have, want)
	for i := range want {
		assert.Equal(t, have[i], want[i])
	}
}

func entries(t testing.TB, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	assert.NilError(t, err)
	out := []string{}
	for _, entry := range list {
		out = append(out, entry.Name())
	}
	return out
}

func sorted(names []string) []string {
	slices.Sort(names)
	return names
}

func openPath(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	assert.NilError(t, err)
	return f
}
