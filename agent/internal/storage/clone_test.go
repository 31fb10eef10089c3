package storage

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// One request creates a clone with all its properties. The same request again returns the clone. So
// does the request of an older controller, which names no properties. A different request is
// refused.
func TestCloneWithProperties(t *testing.T) {
	t.Parallel()
	ten, _ := openTenant(t)
	ctx := t.Context()
	withSnapshot(t, ten)
	for _, spec := range []CloneSpec{{Name: "of-volume", Volume: "v"}, {Name: "of-snapshot", Snapshot: "s", SizeBytes: 128 * mib}} {
		plain := spec
		spec = cloneWithProperties(spec)
		plain.Labels = spec.Labels
		made, created, err := ten.Clone(ctx, spec)
		assert.NilError(t, err)
		assert.Assert(t, created)
		want := Properties{
			SizeBytes: max(64*mib, spec.SizeBytes), QuotaBytes: max(64*mib, spec.SizeBytes), Compression: "zstd:3", RootSquash: true,
			UID: 1000, GID: 2000, Mode: 0o2751,
		}
		assert.DeepEqual(t, made.Properties, want)
		assert.DeepEqual(t, mustGet(t, ten, spec.Name), made, compareAddr)
		assert.DeepEqual(t, made.MountOptions, []string{"hard"})
		assertRules(t, ten.store)

		for _, again := range []CloneSpec{spec, plain} {
			v, created, err := ten.Clone(ctx, again)
			assert.NilError(t, err)
			assert.Assert(t, !created)
			assert.Equal(t, v.VolumeID, made.VolumeID)
		}
		for field, change := range map[string]func(*CloneSpec){
			"nocow":         func(s *CloneSpec) { s.Nocow = ptr(true) },
			"compression":   func(s *CloneSpec) { s.Compression = ptr("lzo") },
			"root_squash":   func(s *CloneSpec) { s.RootSquash = ptr(false) },
			"uid":           func(s *CloneSpec) { s.Uid = ptr(int64(1)) },
			"gid":           func(s *CloneSpec) { s.Gid = ptr(int64(1)) },
			"mode":          func(s *CloneSpec) { s.Mode = ptr("0700") },
			"size_limit":    func(s *CloneSpec) { s.SizeLimit = ptr(false) },
			"mount options": func(s *CloneSpec) { s.MountOptions = &[]string{"soft"} },
			"labels":        func(s *CloneSpec) { s.Labels = nil },
		} {
			other := spec
			change(&other)
			_, _, err := ten.Clone(ctx, other)
			assertCode(t, err, agentapi.AlreadyExists)
			assert.ErrorContains(t, err, field)
		}
	}
}

// A refused clone leaves nothing behind.
func TestCloneWithRefusedProperties(t *testing.T) {
	t.Parallel()
	r := newTestEnv(t, smallPool)
	withSnapshot(t, r.ten)
	_, err := r.ten.UpdateVolume(t.Context(), "v", VolumeUpdate{RequestedProperties: chosen{Compression: ptr("zstd")}})
	assert.NilError(t, err)
	before := r.view()
	for field, properties := range map[string]chosen{
		"uid":           {Uid: ptr(r.store.config.MaxID + 1)},
		"gid":           {Gid: ptr(int64(-1))},
		"mode":          {Mode: ptr("010000")},
		"compression":   {Compression: ptr("gzip")},
		"nocow":         {Nocow: ptr(true)}, // together with the compression of the source
		"mount_options": {MountOptions: &[]string{"hard,bg"}},
	} {
		spec := CloneSpec{Name: "c", Volume: "v", RequestedProperties: properties}
		_, _, err := r.ten.Clone(t.Context(), spec)
		assertCode(t, err, agentapi.Invalid)
		assert.ErrorContains(t, err, field)
	}
	assert.DeepEqual(t, r.view(), before)
	assertRules(t, r.store)
}

// If the request equals the intended properties of the source, the clone keeps what users of the
// source have set.
func TestCloneKeepsWhatUsersHaveSet(t *testing.T) {
	t.Parallel()
	ten, _ := openTenant(t)
	v := mustCreate(t, ten, "v")
	assert.NilError(t, os.Chmod(filepath.Join(v.Path, dataDir), 0o711))
	c, _, err := ten.Clone(t.Context(), CloneSpec{Name: "c", Volume: "v", RequestedProperties: chosen{Mode: ptr(agentapi.FormatMode(v.Mode)), Gid: ptr(int64(5))}})
	assert.NilError(t, err)
	var stat unix.Stat_t
	assert.NilError(t, unix.Stat(filepath.Join(c.Path, dataDir), &stat))
	assert.Equal(t, stat.Mode&0o7777, uint32(0o711))
	assert.Equal(t, stat.Gid, uint32(5))
}

// A larger clone of a full volume gets its properties, because it gets its limit first.
func TestCloneOfAFullVolumeWithProperties(t *testing.T) {
	t.Parallel()
	ten, _ := openTenant(t)
	v := mustCreate(t, ten, "v")
	assert.ErrorIs(t, writeBytes(v.Path, "much", 80*mib), unix.EDQUOT)
	writeToTheEnd(t, v.Path)
	_, _, err := ten.Clone(t.Context(), CloneSpec{Name: "c", Volume: "v", SizeBytes: 128 * mib, RequestedProperties: chosen{Compression: ptr("zstd"), Uid: ptr(int64(7))}})
	assert.NilError(t, err)
	assertLimits(t, ten.store)
}
