package storage

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// editJSON changes a JSON file as an administrator, or another agent, would.
func editJSON(t *testing.T, path string, change func(map[string]any)) {
	t.Helper()
	content, err := os.ReadFile(path)
	assert.NilError(t, err)
	var fields map[string]any
	assert.NilError(t, json.Unmarshal(content, &fields))
	change(fields)
	content, err = json.MarshalIndent(fields, "", "  ")
	assert.NilError(t, err)
	assert.NilError(t, os.WriteFile(path, content, 0o600))
}

// asOlder changes metadata to what 57e475d would have written, at a time after that of the base.
func asOlder(t *testing.T, dir string, after time.Duration) {
	t.Helper()
	editJSON(t, filepath.Join(dir, metadataFile), func(fields map[string]any) {
		delete(fields, "volume_id")
		delete(fields, "source_volume_id")
		fields["created_at"] = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Add(after).Format(time.RFC3339Nano)
	})
}

func metadataOf(t *testing.T, v Volume) ondisk.Metadata {
	t.Helper()
	dir := openPath(t, v.Path)
	defer dir.Close()
	return readMetadata(t, dir, v.Name)
}

func mustSnapshot(t *testing.T, ten *Tenant, name, volume string) Snapshot {
	t.Helper()
	s, created, err := ten.CreateSnapshot(t.Context(), SnapshotSpec{Name: name, Volume: volume})
	assert.NilError(t, err)
	assert.Assert(t, created)
	return s
}

// snapshotNames lists the snapshots of a volume by name. "" lists all.
func snapshotNames(t *testing.T, ten *Tenant, volume string) []string {
	t.Helper()
	page, err := ten.ListSnapshots(t.Context(), Query{Volume: volume})
	assert.NilError(t, err)
	assert.Equal(t, page.Total, len(page.Items))
	names := []string{}
	for _, s := range page.Items {
		if s.Name != "bystander" { // created by withBystanders
			names = append(names, s.Name)
		}
	}
	return names
}

// A new volume under the name of a deleted one has none of its snapshots.
func TestRecreatedVolumeHasItsOwnSnapshots(t *testing.T) {
	r := newTestEnv(t, smallPool)
	first := mustCreate(t, r.ten, "v")
	fill(t, first.Path, "of the first")
	old := mustSnapshot(t, r.ten, "old", "v")
	assert.Equal(t, old.VolumeID, first.VolumeID)
	assert.Equal(t, first.VolumeID.Version(), uuid.Version(4))
	clone, _, err := r.ten.Clone(t.Context(), CloneSpec{Name: "c", Volume: "v"})
	assert.NilError(t, err)
	assert.Equal(t, clone.SourceVolumeID, first.VolumeID)
	assert.Assert(t, clone.VolumeID != first.VolumeID)
	assert.NilError(t, r.ten.DeleteVolume(t.Context(), "v"))
	assert.DeepEqual(t, snapshotNames(t, r.ten, "v"), []string{"old"})
	_, created, err := r.ten.CreateSnapshot(t.Context(), SnapshotSpec{Name: "old", Volume: "v"})
	assert.NilError(t, err) // a retry
	assert.Assert(t, !created)

	second := mustCreate(t, r.ten, "v")
	assert.Assert(t, second.VolumeID != first.VolumeID)
	check := func() {
		t.Helper()
		assert.DeepEqual(t, snapshotNames(t, r.ten, "v"), []string{"new"})
		assert.DeepEqual(t, snapshotNames(t, r.ten, ""), []string{"new", "old"})
		s, err := r.ten.GetSnapshot(t.Context(), "old")
		assert.NilError(t, err)
		assert.Equal(t, s.VolumeID, first.VolumeID)
		s, err = r.ten.GetSnapshot(t.Context(), "new")
		assert.NilError(t, err)
		assert.Equal(t, s.VolumeID, second.VolumeID)
		assert.Equal(t, mustGet(t, r.ten, "v").VolumeID, second.VolumeID)
		assert.Equal(t, mustGet(t, r.ten, "c").SourceVolumeID, first.VolumeID)
	}
	mustSnapshot(t, r.ten, "new", "v")
	check()
	r.export(client1, "1")
	_, err = r.ten.UpdateVolume(t.Context(), "v", VolumeUpdate{RequestedProperties: chosen{RootSquash: ptr(true)}})
	assert.NilError(t, err)
	check()
	r.store.abandon()
	r.open()
	check()

	// A request that names the snapshot of the first volume is no retry.
	_, _, err = r.ten.CreateSnapshot(t.Context(), SnapshotSpec{Name: "old", Volume: "v"})
	assertCode(t, err, agentapi.AlreadyExists)
	_, _, err = r.ten.Clone(t.Context(), CloneSpec{Name: "c", Volume: "v"})
	assertCode(t, err, agentapi.AlreadyExists)

	restored, _, err := r.ten.Clone(t.Context(), CloneSpec{Name: "restored", Snapshot: "old"})
	assert.NilError(t, err)
	assert.Equal(t, contents(t, restored.Path), "of the first")
	assert.Equal(t, restored.SourceVolumeID, first.VolumeID)
	assert.NilError(t, r.ten.DeleteSnapshot(t.Context(), "old"))
	assert.DeepEqual(t, snapshotNames(t, r.ten, ""), []string{"new"})
	assertRules(t, r.store)
}

// Volumes and snapshots of 57e475d have no IDs on disk. They get the same IDs at each start,
// without a write.
func TestVolumesOfOlderAgents(t *testing.T) {
	r := newTestEnv(t, smallPool)
	v := mustCreate(t, r.ten, "v")
	for _, name := range []string{"before", "after", "clock-set-back"} {
		mustSnapshot(t, r.ten, name, "v")
	}
	snapshots := filepath.Join(r.pool.Dir, tenant, snapshotsDir)
	r.store.abandon()
	asOlder(t, v.Path, 0)
	asOlder(t, filepath.Join(snapshots, "after"), time.Second)
	asOlder(t, filepath.Join(snapshots, "before"), -time.Second)
	asOlder(t, filepath.Join(snapshots, "clock-set-back"), -time.Second)
	// This is the data of a previous volume, and no snapshot of the present data.
	predecessor := filepath.Join(snapshots, "before", dataDir)
	btrfsCommand(t, "subvolume", "delete", predecessor)
	btrfsCommand(t, "subvolume", "create", predecessor)
	r.open()

	id := mustGet(t, r.ten, "v").VolumeID
	assert.Equal(t, id.String(), "06cbac46-b3ef-57f6-9d3d-a5253263138d") // see ondisk.TestDerivedID
	assert.DeepEqual(t, snapshotNames(t, r.ten, "v"), []string{"after", "clock-set-back"})
	assert.DeepEqual(t, snapshotNames(t, r.ten, ""), []string{"after", "before", "clock-set-back"})
	for name, want := range map[string]uuid.UUID{"after": id, "clock-set-back": id, "before": uuid.Nil} {
		s, err := r.ten.GetSnapshot(t.Context(), name)
		assert.NilError(t, err)
		assert.Equal(t, s.VolumeID, want, name)
	}
	clone, _, err := r.ten.Clone(t.Context(), CloneSpec{Name: "c", Snapshot: "after"})
	assert.NilError(t, err)
	assert.Equal(t, clone.SourceVolumeID, id)
	newer := mustSnapshot(t, r.ten, "newer", "v")
	assert.Equal(t, newer.VolumeID, id)

	disk := tree(t, v.Path)
	r.store.abandon()
	r.open()
	assert.DeepEqual(t, tree(t, v.Path), disk)
	assert.Equal(t, mustGet(t, r.ten, "v").VolumeID, id)

	// The next write stores the ID.
	r.export(client1, "1")
	m := metadataOf(t, v)
	assert.Equal(t, m.VolumeID, id)
	assert.Equal(t, m.Version, 1)
	assert.DeepEqual(t, snapshotNames(t, r.ten, "v"), []string{"after", "clock-set-back", "newer"})
}

// madeAgain creates a volume with a snapshot, and an older snapshot of a previous volume of the
// same name.
func (r *testEnv) madeAgain() (v Volume, own Snapshot) {
	t := r.t
	t.Helper()
	mustCreate(t, r.ten, "v")
	mustSnapshot(t, r.ten, "old", "v")
	assert.NilError(t, r.ten.DeleteVolume(t.Context(), "v"))
	return mustCreate(t, r.ten, "v"), mustSnapshot(t, r.ten, "own", "v")
}

// The ID of a volume with unreadable metadata is unknown. Its name then decides which snapshots may
// belong to it. When the metadata is repaired, the ID decides again.
func TestSnapshotsOfQuarantinedVolume(t *testing.T) {
	r := newTestEnv(t, smallPool)
	v, own := r.madeAgain()
	file := filepath.Join(v.Path, metadataFile)
	content, err := os.ReadFile(file)
	assert.NilError(t, err)
	r.store.abandon()
	assert.NilError(t, os.WriteFile(file, nil, 0o600))
	r.open()
	assert.Equal(t, mustGet(t, r.ten, "v").VolumeID, uuid.Nil)
	assert.DeepEqual(t, snapshotNames(t, r.ten, "v"), []string{"old", "own"})
	s, err := r.ten.GetSnapshot(t.Context(), "own")
	assert.NilError(t, err)
	assert.Equal(t, s.VolumeID, own.VolumeID)

	assert.NilError(t, os.WriteFile(file, content, 0o600))
	assert.NilError(t, r.ten.reloadVolume("v"))
	assert.DeepEqual(t, snapshotNames(t, r.ten, "v"), []string{"own"})
}

// A volume and a snapshot with missing data keep their IDs.
func TestVolumeIDWithoutData(t *testing.T) {
	r := newTestEnv(t, smallPool)
	v, own := r.madeAgain()
	r.store.abandon()
	for _, dir := range []string{v.Path, own.Path} {
		btrfsCommand(t, "subvolume", "delete", filepath.Join(dir, dataDir))
	}
	r.open()
	lost := mustGet(t, r.ten, "v")
	assert.Assert(t, lost.Quarantine != "")
	assert.Equal(t, lost.VolumeID, v.VolumeID)
	assert.DeepEqual(t, snapshotNames(t, r.ten, "v"), []string{"own"})
}
