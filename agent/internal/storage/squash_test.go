package storage

import (
	"net/netip"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

// Root squash is a property of the volume, and its copies have it too.
func TestRootSquash(t *testing.T) {
	pool := testpool.New(t, testpool.Options{})
	exporter := newMemoryExporter()
	config := Config{BasePath: pool.Dir, Tenants: []string{"t"}}
	store := open(t, config, exporter)
	ten, err := store.Tenant("t")
	assert.NilError(t, err)
	squashed := func() (got []bool) {
		for _, e := range exporter.list() {
			got = append(got, e.Options.RootSquash)
		}
		return got
	}
	ctx, client := t.Context(), netip.MustParseAddr("10.0.0.1")
	spec := VolumeSpec{Name: "v", SizeBytes: 1 << 20, RequestedProperties: chosen{RootSquash: ptr(true)}}
	v, _, err := ten.CreateVolume(ctx, spec)
	assert.NilError(t, err)
	assert.Assert(t, v.RootSquash)
	_, created, err := ten.CreateVolume(ctx, spec)
	assert.NilError(t, err)
	assert.Assert(t, !created)
	spec.RootSquash = ptr(false)
	_, _, err = ten.CreateVolume(ctx, spec)
	assert.ErrorContains(t, err, "root_squash")

	_, err = ten.Export(ctx, "v", ExportSpec{Client: client})
	assert.NilError(t, err)
	assert.DeepEqual(t, squashed(), []bool{true})
	off := false
	_, err = ten.UpdateVolume(ctx, "v", VolumeUpdate{RequestedProperties: chosen{RootSquash: &off}})
	assert.NilError(t, err)
	assert.DeepEqual(t, squashed(), []bool{false})

	// An update that the server refuses changes nothing.
	on := true
	exporter.mu.Lock()
	exporter.fail = nfs.ErrUnavailable
	exporter.mu.Unlock()
	_, err = ten.UpdateVolume(ctx, "v", VolumeUpdate{RequestedProperties: chosen{RootSquash: &on}})
	assert.ErrorIs(t, err, nfs.ErrUnavailable)
	exporter.mu.Lock()
	exporter.fail = nil
	exporter.mu.Unlock()
	v, err = ten.GetVolume(ctx, "v")
	assert.NilError(t, err)
	assert.Assert(t, !v.RootSquash)
	_, err = ten.UpdateVolume(ctx, "v", VolumeUpdate{RequestedProperties: chosen{RootSquash: &on}})
	assert.NilError(t, err)

	_, _, err = ten.CreateSnapshot(ctx, SnapshotSpec{Name: "s", Volume: "v"})
	assert.NilError(t, err)
	clone, _, err := ten.Clone(ctx, CloneSpec{Name: "clone", Snapshot: "s"})
	assert.NilError(t, err)
	assert.Assert(t, clone.RootSquash)

	assert.NilError(t, store.Close(ctx))
	exporter = newMemoryExporter()
	open(t, config, exporter)
	assert.DeepEqual(t, squashed(), []bool{true})
}

// The options of the agent's settings apply to all exports, in addition to those of the volume.
func TestOptionsOfAllExports(t *testing.T) {
	pool := testpool.New(t, testpool.Options{})
	exporter := newMemoryExporter()
	all := nfs.Options{RootSquash: true, Security: "krb5p", XprtSec: "mtls:tls"}
	store := open(t, Config{BasePath: pool.Dir, Tenants: []string{"t"}, Exports: all, NFSVersion: "4.1"}, exporter)
	ten, err := store.Tenant("t")
	assert.NilError(t, err)
	_, _, err = ten.CreateVolume(t.Context(), VolumeSpec{Name: "v", SizeBytes: 1 << 20})
	assert.NilError(t, err)
	grant, err := ten.Export(t.Context(), "v", ExportSpec{Client: netip.MustParseAddr("10.0.0.1"), ReadOnly: true})
	assert.NilError(t, err)
	assert.DeepEqual(t, grant.MountOptions, []string{"vers=4.1", "xprtsec=mtls"})
	all.ReadOnly = true
	exports := exporter.list()
	assert.Equal(t, len(exports), 1)
	assert.Assert(t, exports[0].Options == all, "%+v", exports[0])
	assert.NilError(t, store.reconcileExports(t.Context()))
	assert.Assert(t, exporter.list()[0].Options == all)
}
