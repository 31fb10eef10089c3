package storage

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// A volume whose metadata is damaged keeps its data, its name and its clients; they can be shut out, no other let in.
func TestQuarantinedVolumeKeepsItsClients(t *testing.T) {
	pool := newPool(t)
	exporter := newMemoryExporter()
	s, err := Open(t.Context(), Config{BasePath: pool.Dir, Tenants: []string{tenant}}, exporter)
	assert.NilError(t, err)
	ten := mustTenant(t, s)
	v := mustCreate(t, ten, "v")
	client := netip.MustParseAddr("10.0.0.1")
	_, err = ten.Export(t.Context(), "v", ExportSpec{Client: client})
	assert.NilError(t, err)
	before, err := exporter.List(t.Context())
	assert.NilError(t, err)
	assert.NilError(t, s.Close(t.Context()))
	assert.NilError(t, os.Truncate(filepath.Join(v.Path, metadataFile), 0))

	s = open(t, Config{BasePath: pool.Dir}, exporter)
	ten = mustTenant(t, s)
	got, err := ten.GetVolume(t.Context(), "v")
	assert.NilError(t, err)
	assert.Equal(t, got.Quarantine, "metadata.json is empty")
	after, err := exporter.List(t.Context())
	assert.NilError(t, err)
	assert.DeepEqual(t, after, before, compareAddr)
	assert.NilError(t, s.reconcileExports(t.Context()))
	after, err = exporter.List(t.Context())
	assert.NilError(t, err)
	assert.DeepEqual(t, after, before, compareAddr)

	_, err = ten.Export(t.Context(), "v", ExportSpec{Client: netip.MustParseAddr("10.0.0.2")})
	assertCode(t, err, agentapi.MetadataError)
	assertCode(t, ten.DeleteVolume(t.Context(), "v"), agentapi.MetadataError)
	assert.NilError(t, ten.Unexport(t.Context(), "v", client, nil))
	after, err = exporter.List(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, len(after), 0)
	_, err = os.Stat(filepath.Join(v.Path, dataDir))
	assert.NilError(t, err)
}
