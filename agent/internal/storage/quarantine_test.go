package storage

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// A volume with damaged metadata keeps its data, its name and its clients. The clients can be
// unexported, and no other client gets access.
func TestQuarantinedVolumeKeepsItsClients(t *testing.T) {
	pool := newPool(t)
	exporter := newMemoryExporter()
	s, err := Open(t.Context(), initialised(t, Config{BasePath: pool.Dir, Tenants: []string{tenant}}), exporter)
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
	assertCode(t, err, agentapi.Quarantined)
	assertCode(t, ten.DeleteVolume(t.Context(), "v"), agentapi.Quarantined)
	assert.NilError(t, ten.Unexport(t.Context(), "v", client, nil))
	after, err = exporter.List(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, len(after), 0)
	_, err = os.Stat(filepath.Join(v.Path, dataDir))
	assert.NilError(t, err)
}

// Each error names the directory as the commands for the administrator need it.
func TestQuarantineNamesItsDirectory(t *testing.T) {
	r := newTestEnv(t, smallPool)
	v := mustCreate(t, r.ten, "v")
	r.export(client1, "1")
	assert.NilError(t, os.WriteFile(filepath.Join(v.Path, clientsDir, "damaged"), nil, 0o600))
	r.store.reloads.mark(r.ten.volumeLock("v"))
	r.recoverFromFailure()
	for name, do := range map[string]func() error{
		"export": func() error {
			_, err := r.ten.Export(t.Context(), "v", ExportSpec{Client: client2})
			return err
		},
		"unexport": func() error { return r.ten.Unexport(t.Context(), "v", client2, nil) },
		"patch": func() error {
			_, err := r.ten.UpdateVolume(t.Context(), "v", VolumeUpdate{RequestedProperties: chosen{Uid: ptr(int64(1))}})
			return err
		},
		"clone": func() error {
			_, _, err := r.ten.Clone(t.Context(), CloneSpec{Name: "c", Volume: "v"})
			return err
		},
		"delete": func() error { return r.ten.DeleteVolume(t.Context(), "v") },
	} {
		err := do()
		assertCode(t, err, agentapi.Quarantined)
		assert.ErrorContains(t, err, "btrfs subvolume delete "+v.Path+"/data; rm -r "+v.Path, name)
	}
}

// A quarantined volume squashes root as its metadata says. If the metadata cannot be read, the last
// known setting or that of the server applies. After a restart of both, root is squashed, so no
// client gets more rights than before.
func TestQuarantinedVolumeKeepsItsSquash(t *testing.T) {
	for _, squash := range []bool{true, false} {
		for name, spoil := range map[string]func(t *testing.T, v Volume){
			"metadata": func(t *testing.T, v Volume) {
				assert.NilError(t, os.Truncate(filepath.Join(v.Path, metadataFile), 0))
			},
			"reference": func(t *testing.T, v Volume) {
				assert.NilError(t, os.WriteFile(filepath.Join(v.Path, clientsDir, "damaged"), nil, 0o600))
			},
		} {
			t.Run(fmt.Sprintf("%s, squash %t", name, squash), func(t *testing.T) {
				r := newTestEnv(t, smallPool)
				v, _, err := r.ten.CreateVolume(t.Context(), VolumeSpec{Name: "v", SizeBytes: 16 * mib, RequestedProperties: chosen{RootSquash: ptr(squash)}})
				assert.NilError(t, err)
				r.export(client1, "1")
				before := r.exporter.list()
				spoil(t, v)

				r.store.reloads.mark(r.ten.volumeLock("v"))
				r.recoverFromFailure()
				assert.Assert(t, mustGet(t, r.ten, "v").Quarantine != "")
				assert.DeepEqual(t, r.exporter.list(), before, compareAddr)
				r.store.abandon()
				r.open()
				assert.DeepEqual(t, r.exporter.list(), before, compareAddr)
				r.recoverFromFailure()
				assert.DeepEqual(t, r.exporter.list(), before, compareAddr)

				r.store.abandon()
				clear(r.exporter.exports)
				r.open()
				r.recoverFromFailure()
				want := name == "metadata" || squash
				for _, e := range r.exporter.list() {
					assert.Equal(t, e.Options.RootSquash, e.Path == v.DataPath() && want)
				}
				assert.Equal(t, len(r.exporter.list()), len(before))
			})
		}
	}
}

// One reference of a volume is damaged. It is unknown to which client it gives access, so no client
// loses access.
func TestDamagedReferenceShutsNobodyOut(t *testing.T) {
	pool := newPool(t)
	exporter := newMemoryExporter()
	s, err := Open(t.Context(), initialised(t, Config{BasePath: pool.Dir, Tenants: []string{tenant}}), exporter)
	assert.NilError(t, err)
	ten := mustTenant(t, s)
	v := mustCreate(t, ten, "v")
	for _, client := range []netip.Addr{client1, client2} {
		_, err = ten.Export(t.Context(), "v", ExportSpec{Client: client})
		assert.NilError(t, err)
	}
	before := exporter.list()
	refs := mustGet(t, ten, "v").Refs
	assert.NilError(t, s.Close(t.Context()))
	file := filepath.Join(v.Path, clientsDir, refs[0].FileName())
	content, err := os.ReadFile(file)
	assert.NilError(t, err)
	assert.NilError(t, os.Truncate(file, 0))

	s = reopened(t, Config{BasePath: pool.Dir, Tenants: []string{tenant}}, exporter)
	ten = mustTenant(t, s)
	got, err := ten.GetVolume(t.Context(), "v")
	assert.NilError(t, err)
	assert.Assert(t, got.Quarantine != "")
	assert.Equal(t, len(got.Refs), 1)
	assert.DeepEqual(t, exporter.list(), before, compareAddr)
	assert.NilError(t, s.reconcileExports(t.Context()))
	assert.DeepEqual(t, exporter.list(), before, compareAddr)
	assertCode(t, ten.Unexport(t.Context(), "v", client1, nil), agentapi.Quarantined)
	assertCode(t, ten.Unexport(t.Context(), "v", client2, nil), agentapi.MetadataError) // access is revoked, but perhaps not permanently
	assert.DeepEqual(t, exporter.list(), before[:1], compareAddr)

	assert.NilError(t, s.Close(t.Context()))
	assert.NilError(t, os.WriteFile(file, content, 0o600))
	s = reopened(t, Config{BasePath: pool.Dir, Tenants: []string{tenant}}, exporter)
	assert.DeepEqual(t, exporter.list(), before[:1], compareAddr)
	assert.NilError(t, mustTenant(t, s).Unexport(t.Context(), "v", client1, nil))
	assert.Equal(t, len(exporter.list()), 0)
	assert.NilError(t, s.Close(t.Context()))
}

// The agent revokes access of a client whose unexport failed midway. It does so even if some
// references cannot be read, or if the data is missing. The other clients stay.
func TestReconcileShutsEndedClientsOut(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, r *testEnv, v Volume){
		"unreadable reference": func(t *testing.T, _ *testEnv, v Volume) {
			assert.NilError(t, os.WriteFile(filepath.Join(v.Path, clientsDir, "damaged"), nil, 0o600))
		},
		"data is missing": func(_ *testing.T, r *testEnv, v Volume) { r.moveAway(v.Path) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newTestEnv(t, smallPool)
			v := mustCreate(t, r.ten, "v")
			r.export(client1, "1")
			r.export(client2, "1")
			before := r.exporter.list()
			spoil(t, r, v)
			r.store.abandon()
			r.open()
			assert.Assert(t, mustGet(t, r.ten, "v").Quarantine != "")
			assert.DeepEqual(t, r.exporter.list(), before, compareAddr)

			r.exporter.setFail(nfs.ErrUnavailable)
			assertCode(t, r.ten.Unexport(t.Context(), "v", client2, nil), agentapi.Unavailable)
			r.exporter.setFail(nil)
			everyone := before[2]
			everyone.Client, everyone.Spec = netip.Addr{}, "*"
			r.exporter.put(everyone)
			r.recoverFromFailure()
			assert.Equal(t, before[2].Client, client2)
			assert.DeepEqual(t, r.exporter.list(), before[:2], compareAddr)
		})
	}
}

// If one export cannot be restored, the others are still served, and the agent tries again. If the
// NFS server does not work at all, the start fails.
func TestExportThatCannotBeRestored(t *testing.T) {
	pool := newPool(t)
	exporter := newMemoryExporter()
	config := Config{BasePath: pool.Dir, Tenants: []string{tenant}}
	s, err := Open(t.Context(), initialised(t, config), exporter)
	assert.NilError(t, err)
	mustCreate(t, mustTenant(t, s), "v")
	_, err = mustTenant(t, s).Export(t.Context(), "v", ExportSpec{Client: client1})
	assert.NilError(t, err)
	assert.NilError(t, s.Close(t.Context()))

	_, err = Open(t.Context(), config, brokenExporter{exporter})
	assert.ErrorIs(t, err, nfs.ErrUnavailable)
	exporter.bad = unix.EIO
	s = reopened(t, config, exporter)
	assert.Equal(t, len(exporter.list()), 0)
	assert.DeepEqual(t, reasons(s.Conditions()), []string{agentapi.ReasonExportsDiffer})
	s.maintain(t.Context())
	assert.Equal(t, len(exporter.list()), 1)
	assert.Equal(t, len(s.Conditions()), 0)
	assert.NilError(t, s.Close(t.Context()))
}

// brokenExporter is an NFS server that is unreachable and always fails.
type brokenExporter struct{ *memoryExporter }

func (brokenExporter) Start(context.Context, []nfs.Export) error {
	return errors.Join(&nfs.ExportError{Err: unix.EIO}, fmt.Errorf("%w: %w", nfs.ErrUnavailable, unix.EIO))
}

// The agent does not remove files that an administrator put or left among the volumes, nor what may
// be an interrupted change.
func TestStrangersFilesAreKept(t *testing.T) {
	pool := newPool(t)
	s, err := Open(t.Context(), initialised(t, Config{BasePath: pool.Dir, Tenants: []string{tenant, "former"}}), newMemoryExporter())
	assert.NilError(t, err)
	ten, err := s.Tenant("former")
	assert.NilError(t, err)
	half := mustCreate(t, ten, "half")
	assert.NilError(t, s.Close(t.Context()))
	assert.NilError(t, btrfs.DestroyTree(openPath(t, half.Path), dataDir)) // as an interrupted deletion does

	for _, dir := range []string{"home/snapshots", "home/project/clients", "home/.new-work", "home/empty", tenant + "/v/clients"} {
		assert.NilError(t, os.MkdirAll(filepath.Join(pool.Dir, dir), 0o700))
	}
	files := []string{"home/project/clients/letter", "home/project/metadata.json", tenant + "/v/clients/letter"}
	for _, file := range files {
		assert.NilError(t, os.WriteFile(filepath.Join(pool.Dir, file), []byte("precious"), 0o600))
	}
	s = reopened(t, Config{BasePath: pool.Dir, Tenants: []string{tenant}}, newMemoryExporter())
	s.maintenance.failed.Store(true)
	s.maintain(t.Context())
	assert.NilError(t, s.Close(t.Context()))
	for _, file := range append(files, "home/.new-work", "home/empty") {
		_, err := os.Stat(filepath.Join(pool.Dir, file))
		assert.NilError(t, err)
	}
	_, err = os.Stat(half.Path)
	assert.NilError(t, err)
}
