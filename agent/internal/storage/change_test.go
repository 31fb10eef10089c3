package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// A change has failed and cannot be undone. It stays noted during other changes of the volume, and
// is undone as soon as that works again. A change that was answered with an error never takes
// effect later.
func TestChangeThatCannotBeUndone(t *testing.T) {
	for _, test := range []struct {
		name, step string
		update     VolumeUpdate
	}{
		{"storage", "storage, second part", VolumeUpdate{RequestedProperties: chosen{Compression: ptr("zstd")}}},
		{"owner", "chmod", VolumeUpdate{RequestedProperties: chosen{Uid: ptr(int64(7)), Mode: ptr("0700")}}},
		{"limit", "limit", VolumeUpdate{SizeBytes: ptr(128 * mib)}},
	} {
		for _, restart := range []bool{false, true} {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				r := newTestEnv(t, testpool.Options{})
				withVolume(t, r.ten)
				before := mustGet(t, r.ten, "v")
				r.faults.fail(unix.EIO, test.step)
				r.faults.watch(func(step string) {
					if step == "chmod" { // the owner has changed already
						r.faults.fail(unix.EIO, "chmod", "chown")
					}
				})
				_, err := r.ten.UpdateVolume(t.Context(), "v", test.update)
				assert.ErrorIs(t, err, unix.EIO)
				if restart {
					r.store.abandon()
					r.open()
				}

				_, err = r.ten.Export(t.Context(), "v", ExportSpec{Client: client1})
				attached := err == nil // a reload that sets the limit fails
				assert.Equal(t, attached, test.step != "limit")
				if attached {
					_, err = r.ten.UpdateVolume(t.Context(), "v", VolumeUpdate{Labels: map[string]string{"a": "b"}})
					assert.NilError(t, err)
					for range 3 { // a retry adds no notes
						_, err = r.ten.UpdateVolume(t.Context(), "v", test.update)
						assert.ErrorIs(t, err, unix.EIO)
					}
				}
				dir := openPath(t, r.ten.volumeDir.Path("v"))
				defer dir.Close()
				m, _, err := ondisk.ReadMetadata(dir)
				assert.NilError(t, err)
				assert.Assert(t, len(m.Changes) == 1 || len(m.Changes) == 2, "%v", m.Changes) // 2: one for the half, one for the whole change
				assert.Equal(t, m.Version, 2, "an older agent would drop the note")
				assert.Equal(t, m.SizeBytes, before.SizeBytes)

				r.faults.watch(nil)
				r.faults.fail(nil)
				r.store.maintain(t.Context())
				after := mustGet(t, r.ten, "v")
				assert.DeepEqual(t, after.Properties, before.Properties)
				assertRules(t, r.store)
				_, err = r.ten.UpdateVolume(t.Context(), "v", test.update)
				assert.NilError(t, err)
				assertRules(t, r.store)
			})
		}
	}
}

// A volume fills up during a change of its compression. Growing it still works, and lets the agent
// undo the change.
func TestGrowWhileAChangeIsPending(t *testing.T) {
	r := newTestEnv(t, testpool.Options{})
	withVolume(t, r.ten)
	r.faults.fail(unix.EDQUOT, "storage")
	_, err := r.ten.UpdateVolume(t.Context(), "v", VolumeUpdate{RequestedProperties: chosen{Compression: ptr("zstd")}})
	assertCode(t, err, agentapi.NoSpace)
	_, err = r.ten.UpdateVolume(t.Context(), "v", VolumeUpdate{SizeBytes: ptr(256 * mib)})
	assert.NilError(t, err)
	r.faults.fail(nil)
	r.store.maintain(t.Context())
	v := mustGet(t, r.ten, "v")
	assert.Equal(t, v.SizeBytes, 256*mib)
	assert.Equal(t, v.Compression, "")
	assert.Equal(t, len(v.Pending), 0)
	assertRules(t, r.store)
}

// A retry with more room, or with another value, succeeds before the failed change is undone. The
// agent still undoes the settings that the retry does not name.
func TestChangeOfWhatIsPending(t *testing.T) {
	for _, restart := range []bool{false, true} {
		r := newTestEnv(t, testpool.Options{})
		withVolume(t, r.ten)
		before := mustGet(t, r.ten, "v")
		r.faults.watch(func(step string) {
			if step == "chmod" { // the owner has changed already
				r.faults.fail(unix.EDQUOT, "chmod", "chown", "storage")
			}
		})
		_, err := r.ten.UpdateVolume(t.Context(), "v", VolumeUpdate{RequestedProperties: chosen{Uid: ptr(int64(7)), Mode: ptr("0700")}})
		assertCode(t, err, agentapi.NoSpace)
		for range 3 {
			_, err = r.ten.UpdateVolume(t.Context(), "v", VolumeUpdate{RequestedProperties: chosen{Compression: ptr("zstd")}})
			assertCode(t, err, agentapi.NoSpace)
		}
		assert.Equal(t, len(mustGet(t, r.ten, "v").Pending), 2)
		if restart {
			r.store.abandon()
			r.open()
		}

		limits := 0
		r.faults.watch(func(step string) {
			if step == "limit" {
				limits++
			}
			if limits == 2 { // the first is that of the reload, which cannot undo anything
				r.faults.fail(nil)
			}
		})
		v, err := r.ten.UpdateVolume(t.Context(), "v", VolumeUpdate{SizeBytes: ptr(256 * mib), RequestedProperties: chosen{Compression: ptr("lzo"), Mode: ptr("0711")}})
		assert.NilError(t, err)
		r.faults.watch(nil)
		assert.Equal(t, v.SizeBytes, 256*mib)
		assert.Equal(t, v.Compression, "lzo")
		assert.Equal(t, v.Mode, uint32(0o711))
		assert.Equal(t, v.UID, before.UID)
		r.store.maintain(t.Context())
		assert.Equal(t, len(mustGet(t, r.ten, "v").Pending), 0)
		assertRules(t, r.store)
	}
}

// A copy has no part of a failed change, once that change can be undone.
func TestCopyAfterAFailedChange(t *testing.T) {
	for name, copied := range map[string]CloneSpec{"clone": {Name: "c", Volume: "v"}, "snapshot": {Name: "c", Snapshot: "s"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newTestEnv(t, testpool.Options{})
			mustCreate(t, r.ten, "v")
			r.faults.watch(func(step string) {
				if step == "chmod" { // the owner has changed already
					r.faults.fail(unix.EDQUOT, "chmod", "chown")
				}
			})
			_, err := r.ten.UpdateVolume(t.Context(), "v", VolumeUpdate{RequestedProperties: chosen{Uid: ptr(int64(7)), Mode: ptr("0700")}})
			assertCode(t, err, agentapi.NoSpace)
			r.faults.watch(nil)
			r.faults.fail(nil)

			if copied.Snapshot != "" {
				_, _, err = r.ten.CreateSnapshot(t.Context(), SnapshotSpec{Name: "s", Volume: "v"})
				assert.NilError(t, err)
			}
			c, _, err := r.ten.Clone(t.Context(), copied)
			assert.NilError(t, err)
			var stat unix.Stat_t
			assert.NilError(t, unix.Stat(filepath.Join(c.Path, dataDir), &stat))
			assert.Equal(t, int64(stat.Uid), c.UID)
		})
	}
}

// The number of notes of changes that cannot be undone is limited. A change that is noted already
// needs no other note.
func TestMostPendingChanges(t *testing.T) {
	r := newTestEnv(t, testpool.Options{})
	withVolume(t, r.ten)
	r.faults.fail(unix.EDQUOT, "storage")
	set := func(compression string) error {
		_, err := r.ten.UpdateVolume(t.Context(), "v", VolumeUpdate{RequestedProperties: chosen{Compression: &compression}})
		return err
	}
	for i := range maxPending - 1 {
		assertCode(t, set(fmt.Sprintf("zstd:%d", i+1)), agentapi.NoSpace)
	}
	assertCode(t, set("lzo"), agentapi.NoSpace)
	assertCode(t, set("zlib"), agentapi.Unavailable)
	assertCode(t, set("lzo"), agentapi.NoSpace)
	r.faults.fail(nil)
	assert.NilError(t, set("zlib"))
	assert.Equal(t, len(mustGet(t, r.ten, "v").Pending), 0)
	assertRules(t, r.store)
}

// Changes that a pod made to the root of its volume after the change stay.
func TestUndoKeepsWhatClientsHaveSet(t *testing.T) {
	r := newTestEnv(t, testpool.Options{})
	withVolume(t, r.ten)
	_, err := r.ten.UpdateVolume(t.Context(), "v", VolumeUpdate{RequestedProperties: chosen{Mode: ptr("0711")}})
	assert.NilError(t, err)
	replaced := 0
	r.faults.watch(func(step string) {
		if step == "replace" {
			replaced++
		}
		if replaced == 2 { // the subvolume has the new values, the metadata does not
			r.faults.kill(1)
		}
	})
	_, err = r.ten.UpdateVolume(t.Context(), "v", VolumeUpdate{RequestedProperties: chosen{Mode: ptr("0700"), Gid: ptr(int64(5))}})
	assert.ErrorIs(t, err, errKilled)
	r.faults.watch(nil)
	r.store.abandon()
	r.faults.disarm()
	data := filepath.Join(r.ten.volumeDir.Path("v"), dataDir)
	assert.NilError(t, os.Chmod(data, 0o755)) // by a pod
	r.open()
	info, err := os.Stat(data)
	assert.NilError(t, err)
	assert.Equal(t, info.Mode().Perm(), os.FileMode(0o755))
	var stat unix.Stat_t
	assert.NilError(t, unix.Stat(data, &stat))
	assert.Equal(t, stat.Gid, uint32(0))
	assert.Equal(t, mustGet(t, r.ten, "v").Mode, uint32(0o711))
}

// 57e475d wrote the new values to its metadata before it set them on the subvolume, and finished
// interrupted changes. Its note also survives other changes of the volume.
func TestUnfinishedChangeOfVersion1(t *testing.T) {
	r := newTestEnv(t, testpool.Options{})
	withVolume(t, r.ten)
	r.store.abandon()
	file := filepath.Join(r.ten.volumeDir.Path("v"), metadataFile)
	edit(t, file, `"compression": ""`, `"unfinished": {"storage": true}, "compression": "zstd"`)
	r.faults.fail(unix.EIO, "storage")
	r.open()
	_, err := r.ten.Export(t.Context(), "v", ExportSpec{Client: client1})
	assert.NilError(t, err)
	r.store.abandon()
	r.open()
	r.faults.fail(nil)
	r.store.maintain(t.Context())
	assert.Equal(t, mustGet(t, r.ten, "v").Compression, "zstd")
	data := openPath(t, filepath.Join(r.ten.volumeDir.Path("v"), dataDir))
	defer data.Close()
	compression, err := btrfs.Compression(data)
	assert.NilError(t, errors.Join(err))
	assert.Equal(t, compression, "zstd")
	assertRules(t, r.store)
}
