package storage

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// operation is a change and the state from which it starts.
type operation struct {
	name    string
	prepare func(t testing.TB, ten *Tenant)
	do      func(ctx context.Context, ten *Tenant) error
}

var (
	client1 = netip.MustParseAddr("10.0.0.1")
	client2 = netip.MustParseAddr("fd00::2")
)

// operations returns all kinds of changes. There are always another volume, snapshot and export
// that they must not touch.
func operations() []operation {
	return []operation{
		creating("create", VolumeSpec{Name: "v", SizeBytes: 64 * mib}),
		creating("create nocow", VolumeSpec{Name: "v", SizeBytes: 64 * mib, QuotaBytes: 32 * mib, RequestedProperties: chosen{Nocow: ptr(true)}}),
		creating("create compressed", VolumeSpec{
			Name: "v", SizeBytes: 64 * mib, Labels: map[string]string{"a": "b", "created-by": "me"},
			RequestedProperties: chosen{Compression: ptr("zstd:3"), Uid: ptr(int64(1000)), Gid: ptr(int64(2000)), Mode: ptr("06751")},
		}),
		creating("create without a limit", VolumeSpec{Name: "v", SizeBytes: 64 * mib, RequestedProperties: chosen{SizeLimit: ptr(false), MountOptions: &[]string{"hard"}}}),
		creating("create root-squashed", VolumeSpec{Name: "v", SizeBytes: 64 * mib, Labels: manyLabels(), RequestedProperties: chosen{RootSquash: ptr(true)}}),
		cloning("clone of a volume", CloneSpec{Name: "c", Volume: "v", Labels: map[string]string{"a": "c"}}),
		cloning("larger clone of a snapshot", CloneSpec{Name: "c", Snapshot: "s", SizeBytes: 128 * mib}),
		cloning("clone with properties", cloneWithProperties(CloneSpec{Name: "c", Volume: "v"})),
		cloning("clone with properties of a snapshot", cloneWithProperties(CloneSpec{Name: "c", Snapshot: "s", SizeBytes: 128 * mib})),
		cloning("clone without a limit", CloneSpec{Name: "c", Snapshot: "s", RequestedProperties: chosen{Nocow: ptr(true), SizeLimit: ptr(false)}}),
		{"snapshot", withVolume, func(ctx context.Context, ten *Tenant) error {
			_, _, err := ten.CreateSnapshot(ctx, SnapshotSpec{Name: "s", Volume: "v", Labels: map[string]string{"a": "d"}})
			return err
		}},
		updating("resize", VolumeUpdate{SizeBytes: ptr(128 * mib)}),
		updating("patch nocow", VolumeUpdate{RequestedProperties: chosen{Nocow: ptr(true)}}),
		updating("patch compression", VolumeUpdate{RequestedProperties: chosen{Compression: ptr("zlib:5")}}),
		updating("patch owner", VolumeUpdate{RequestedProperties: chosen{Uid: ptr(int64(7)), Gid: ptr(int64(8))}}),
		updating("patch mode", VolumeUpdate{RequestedProperties: chosen{Mode: ptr("01711")}}),
		updating("patch labels", VolumeUpdate{Labels: map[string]string{"new": "label"}}),
		updating("patch labels, and the mode that is set", VolumeUpdate{Labels: map[string]string{"new": "label"}, RequestedProperties: chosen{Mode: ptr("02770")}}),
		updating("patch labels to more than a page", VolumeUpdate{Labels: manyLabels()}),
		updating("patch size limit", VolumeUpdate{RequestedProperties: chosen{SizeLimit: ptr(false)}}),
		updating("patch mount options", VolumeUpdate{RequestedProperties: chosen{MountOptions: &[]string{"nconnect=4", "hard"}}}),
		{"patch root squash of an exported volume", withExport, func(ctx context.Context, ten *Tenant) error {
			_, err := ten.UpdateVolume(ctx, "v", VolumeUpdate{RequestedProperties: chosen{RootSquash: ptr(true)}})
			return err
		}},
		updating("patch everything", VolumeUpdate{
			SizeBytes: ptr(256 * mib), Labels: map[string]string{"all": "new"},
			RequestedProperties: chosen{Nocow: ptr(false), Compression: ptr("lzo"), Uid: ptr(int64(9)), Gid: ptr(int64(10)), Mode: ptr("04700")},
		}),
		exporting("first export", withVolume, ExportSpec{Client: client1, Labels: map[string]string{"pod": "1"}}),
		exporting("second reference", withExport, ExportSpec{Client: client1, ReadOnly: true, Labels: map[string]string{"pod": "2"}}),
		exporting("export to a second client", withExport, ExportSpec{Client: client2}),
		exporting("export becomes read-only", withExport, ExportSpec{Client: client1, ReadOnly: true, Labels: map[string]string{"pod": "1"}}),
		exporting("same export again", withExport, ExportSpec{Client: client1, Labels: map[string]string{"pod": "1"}}),
		unexporting("unexport of the last reference", withExport, nil),
		unexporting("unexport of one reference", withTwoReferences, map[string]string{"pod": "1"}),
		unexporting("unexport of all references", withTwoReferences, nil),
		{"delete volume", withVolume, func(ctx context.Context, ten *Tenant) error { return ten.DeleteVolume(ctx, "v") }},
		{"delete volume that was exported", wasExported, func(ctx context.Context, ten *Tenant) error { return ten.DeleteVolume(ctx, "v") }},
		{"delete snapshot", withSnapshot, func(ctx context.Context, ten *Tenant) error { return ten.DeleteSnapshot(ctx, "s") }},
	}
}

// manyLabels make metadata longer than a page. The agent writes such a file to the disk in another
// way: see btrfs.FlushFile.
func manyLabels() map[string]string {
	out := map[string]string{}
	for i := range 30 {
		out[fmt.Sprintf("label-%02d-%s", i, strings.Repeat("k", 50))] = strings.Repeat("v", 60)
	}
	return out
}

func creating(name string, spec VolumeSpec) operation {
	return operation{name, func(testing.TB, *Tenant) {}, func(ctx context.Context, ten *Tenant) error {
		_, _, err := ten.CreateVolume(ctx, spec)
		return err
	}}
}

func cloning(name string, spec CloneSpec) operation {
	return operation{name, withSnapshot, func(ctx context.Context, ten *Tenant) error {
		_, _, err := ten.Clone(ctx, spec)
		return err
	}}
}

func cloneWithProperties(spec CloneSpec) CloneSpec {
	spec.Compression, spec.RootSquash, spec.MountOptions = ptr("zstd:3"), ptr(true), &[]string{"hard"}
	spec.Uid, spec.Gid, spec.Mode = ptr(int64(1000)), ptr(int64(2000)), ptr("02751")
	spec.Labels = map[string]string{"a": "c"}
	return spec
}

func updating(name string, update VolumeUpdate) operation {
	return operation{name, withVolume, func(ctx context.Context, ten *Tenant) error {
		_, err := ten.UpdateVolume(ctx, "v", update)
		return err
	}}
}

func exporting(name string, prepare func(testing.TB, *Tenant), spec ExportSpec) operation {
	return operation{name, prepare, func(ctx context.Context, ten *Tenant) error {
		_, err := ten.Export(ctx, "v", spec)
		return err
	}}
}

func unexporting(name string, prepare func(testing.TB, *Tenant), labels map[string]string) operation {
	return operation{name, prepare, func(ctx context.Context, ten *Tenant) error {
		return ten.Unexport(ctx, "v", client1, labels)
	}}
}

func withVolume(t testing.TB, ten *Tenant) {
	t.Helper()
	v, _, err := ten.CreateVolume(t.Context(), VolumeSpec{Name: "v", SizeBytes: 64 * mib, Labels: map[string]string{"created-by": "me"}})
	assert.NilError(t, err)
	fill(t, v.Path, "of v")
}

func withSnapshot(t testing.TB, ten *Tenant) {
	t.Helper()
	withVolume(t, ten)
	_, _, err := ten.CreateSnapshot(t.Context(), SnapshotSpec{Name: "s", Volume: "v"})
	assert.NilError(t, err)
}

func withExport(t testing.TB, ten *Tenant) {
	t.Helper()
	withVolume(t, ten)
	_, err := ten.Export(t.Context(), "v", ExportSpec{Client: client1, Labels: map[string]string{"pod": "1"}})
	assert.NilError(t, err)
}

func withTwoReferences(t testing.TB, ten *Tenant) {
	t.Helper()
	withExport(t, ten)
	_, err := ten.Export(t.Context(), "v", ExportSpec{Client: client1, ReadOnly: true, Labels: map[string]string{"pod": "2"}})
	assert.NilError(t, err)
}

func wasExported(t testing.TB, ten *Tenant) {
	t.Helper()
	withExport(t, ten)
	assert.NilError(t, ten.Unexport(t.Context(), "v", client1, nil))
}

// withBystanders creates what no operation may touch.
func withBystanders(t testing.TB, ten *Tenant) {
	t.Helper()
	ctx := t.Context()
	v, _, err := ten.CreateVolume(ctx, VolumeSpec{Name: "bystander", SizeBytes: 16 * mib})
	assert.NilError(t, err)
	fill(t, v.Path, "of bystander")
	_, _, err = ten.CreateSnapshot(ctx, SnapshotSpec{Name: "bystander", Volume: "bystander"})
	assert.NilError(t, err)
	_, err = ten.Export(ctx, "bystander", ExportSpec{Client: client1})
	assert.NilError(t, err)
}

// wipe deletes what operations work on.
func wipe(t testing.TB, ten *Tenant) {
	t.Helper()
	ctx := t.Context()
	for _, name := range []string{"v", "c"} {
		assert.NilError(t, ten.Unexport(ctx, name, client1, nil))
		assert.NilError(t, ten.Unexport(ctx, name, client2, nil))
		assert.NilError(t, ten.DeleteVolume(ctx, name))
	}
	assert.NilError(t, ten.DeleteSnapshot(ctx, "s"))
}

func ptr[T any](value T) *T { return &value }

// chosen are the properties that a request chooses.
type chosen = agentapi.RequestedProperties
