package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/openat2"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// Health reports nested subvolumes of a volume. Snapshots omit and name them.
func TestNestedSubvolumes(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	config := Config{BasePath: pool.Dir, Tenants: []string{tenant}}
	s := reopened(t, config, newMemoryExporter())
	ten := mustTenant(t, s)
	v := mustCreate(t, ten, "v")
	mustCreate(t, ten, "well")
	data := filepath.Join(v.Path, dataDir)
	withSnapshotOf(t, ten, "v")
	before, err := ten.GetSnapshot(t.Context(), "s")
	assert.NilError(t, err)
	assert.Equal(t, len(before.Nested), 0)

	btrfsCommand(t, "subvolume", "create", filepath.Join(data, "nested"))
	assert.NilError(t, os.MkdirAll(filepath.Join(data, "some", "where"), 0o755))
	btrfsCommand(t, "subvolume", "create", filepath.Join(data, "some", "where", "deep"))
	btrfsCommand(t, "subvolume", "create", filepath.Join(data, "nested", "within")) // in the nested one
	assert.DeepEqual(t, healthOf(t, ten, "v"), []string{agentapi.ReasonNestedSubvolumes})
	assert.DeepEqual(t, healthOf(t, ten, "well"), []string{})
	assert.DeepEqual(t, degradedVolumes(t, ten), []string{"v"})
	report, err := ten.Report(t.Context(), "v")
	assert.NilError(t, err)
	assert.Assert(t, cmp.Contains(report.Conditions[0].Message, "some/where/deep"))

	snapshot, _, err := ten.CreateSnapshot(t.Context(), SnapshotSpec{Name: "after", Volume: "v"})
	assert.NilError(t, err)
	assert.DeepEqual(t, snapshot.Nested, []string{"nested", "some/where/deep"})
	for i := range 2 * nestedInMessage {
		btrfsCommand(t, "subvolume", "create", filepath.Join(data, fmt.Sprint("more", i)))
	}
	assert.DeepEqual(t, healthOf(t, ten, "v"), []string{agentapi.ReasonNestedSubvolumes})
	report, err = ten.Report(t.Context(), "v")
	assert.NilError(t, err)
	assert.Assert(t, cmp.Contains(report.Conditions[0].Message, "and 7 more"))
	assert.NilError(t, s.Close(t.Context()))

	ten = mustTenant(t, open(t, config, newMemoryExporter()))
	snapshot, err = ten.GetSnapshot(t.Context(), "after")
	assert.NilError(t, err)
	assert.DeepEqual(t, snapshot.Nested, []string{"nested", "some/where/deep"})
	assert.NilError(t, ten.DeleteVolume(t.Context(), "v"))
}

// Health reports a read-only flag that was set by hand, until it is cleared.
func TestReadOnlySubvolume(t *testing.T) {
	t.Parallel()
	ten, _ := openTenant(t)
	v := mustCreate(t, ten, "v")
	mustCreate(t, ten, "well")
	withSnapshotOf(t, ten, "v") // a snapshot is always read-only
	for flag, want := range map[string][]string{"true": {agentapi.ReasonVolumeReadOnly}, "false": {}} {
		btrfsCommand(t, "property", "set", "-ts", filepath.Join(v.Path, dataDir), "ro", flag)
		assert.DeepEqual(t, healthOf(t, ten, "v"), want)
		assert.DeepEqual(t, healthOf(t, ten, "well"), []string{})
		_, err := ten.UpdateVolume(t.Context(), "v", VolumeUpdate{RequestedProperties: chosen{Mode: ptr("0700")}})
		if flag == "true" {
			assertCode(t, err, agentapi.Unavailable)
			assert.ErrorContains(t, err, "or the subvolume was made so on the storage host")
		} else {
			assert.NilError(t, err)
		}
		btrfsCommand(t, "property", "set", "-ts", filepath.Join(v.Path, dataDir), "ro", "false")
	}
}

// Clients choose the names within a volume. With any names, snapshots can be created and read.
func TestHostileNamesOfNestedSubvolumes(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	config := Config{BasePath: pool.Dir, Tenants: []string{tenant}}
	s := reopened(t, config, newMemoryExporter())
	v := mustCreate(t, mustTenant(t, s), "v")
	dir, err := os.Open(filepath.Join(v.Path, dataDir))
	assert.NilError(t, err)
	for i := range nestedInSnapshot + 20 {
		assert.NilError(t, btrfs.CreateSubvolume(dir, fmt.Sprintf("%s\xff%d", strings.Repeat("\x01", 250), i)))
	}
	for range 20 { // deeper than the paths that the kernel returns
		name := strings.Repeat("d", 255)
		assert.NilError(t, unix.Mkdirat(int(dir.Fd()), name, 0o755))
		next, err := openat2.OpenDir(dir, name)
		assert.NilError(t, errors.Join(err, dir.Close()))
		dir = next
	}
	assert.NilError(t, btrfs.CreateSubvolume(dir, "deep"))
	assert.NilError(t, dir.Close())
	withSnapshotOf(t, mustTenant(t, s), "v")
	assert.DeepEqual(t, healthOf(t, mustTenant(t, s), "v"), []string{agentapi.ReasonNestedSubvolumes})
	paths, total, err := fsOf(t, s).NestedSubvolumes(v.ID, 1000)
	assert.NilError(t, err)
	assert.Equal(t, total, nestedInSnapshot+21)
	assert.Equal(t, paths[total-1], ".../deep")
	assert.NilError(t, s.Close(t.Context()))

	snapshot, err := mustTenant(t, open(t, config, newMemoryExporter())).GetSnapshot(t.Context(), "s")
	assert.NilError(t, err)
	assert.Equal(t, snapshot.Quarantine, "")
	assert.Assert(t, len(snapshot.Nested) > 0 && len(strings.Join(snapshot.Nested, "")) <= nestedBytes)
}
