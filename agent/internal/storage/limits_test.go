package storage

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

func limitedTenant(t *testing.T, limits TenantLimits) *Tenant {
	t.Helper()
	pool := newPool(t)
	config := Config{BasePath: pool.Dir, Limits: map[string]TenantLimits{tenant: limits}}
	return mustTenant(t, open(t, config, newMemoryExporter()))
}

// assertLimit checks the code and that the message names the limit.
func assertLimit(t *testing.T, err error, limit string) {
	t.Helper()
	assertCode(t, err, agentapi.NoSpace)
	assert.ErrorContains(t, err, limit)
	assert.ErrorContains(t, err, "AGENT_TENANT_LIMITS")
}

func TestLimitOfVolumes(t *testing.T) {
	t.Parallel()
	ten := limitedTenant(t, TenantLimits{Volumes: 2})
	ctx := t.Context()
	mustCreate(t, ten, "v")
	withSnapshotOf(t, ten, "v")
	_, _, err := ten.Clone(ctx, CloneSpec{Name: "c", Snapshot: "s"})
	assert.NilError(t, err)

	_, _, err = ten.CreateVolume(ctx, VolumeSpec{Name: "more", SizeBytes: mib})
	assertLimit(t, err, "at most 2 volumes")
	_, _, err = ten.Clone(ctx, CloneSpec{Name: "more", Volume: "v"})
	assertLimit(t, err, "at most 2 volumes")
	_, created, err := ten.CreateVolume(ctx, VolumeSpec{Name: "v", SizeBytes: 64 * mib}) // the same request
	assert.NilError(t, err)
	assert.Assert(t, !created)
	_, err = ten.UpdateVolume(ctx, "v", VolumeUpdate{SizeBytes: ptr(128 * mib)})
	assert.NilError(t, err)
	assert.NilError(t, ten.DeleteVolume(ctx, "c"))
	mustCreate(t, ten, "more")
}

func TestLimitOfSizes(t *testing.T) {
	t.Parallel()
	ten := limitedTenant(t, TenantLimits{SizeBytes: 200 * mib})
	ctx := t.Context()
	mustCreate(t, ten, "v") // 64 MiB
	_, _, err := ten.CreateVolume(ctx, VolumeSpec{Name: "quota", SizeBytes: mib, QuotaBytes: 100 * mib})
	assert.NilError(t, err)

	for _, size := range []int64{37 * mib, 1 << 62} {
		_, _, err = ten.CreateVolume(ctx, VolumeSpec{Name: "more", SizeBytes: size})
		assertCode(t, err, agentapi.NoSpace)
	}
	_, _, err = ten.CreateVolume(ctx, VolumeSpec{Name: "more", SizeBytes: 37 * mib})
	assertLimit(t, err, fmt.Sprint("at most ", 200*mib, " bytes"))
	_, _, err = ten.Clone(ctx, CloneSpec{Name: "more", Volume: "v"})
	assertLimit(t, err, fmt.Sprint("at most ", 200*mib, " bytes"))
	_, err = ten.UpdateVolume(ctx, "v", VolumeUpdate{SizeBytes: ptr(101 * mib)})
	assertLimit(t, err, fmt.Sprint("at most ", 200*mib, " bytes"))
	v, err := ten.GetVolume(ctx, "v")
	assert.NilError(t, err)
	assert.Equal(t, v.SizeBytes, 64*mib)
	_, err = ten.UpdateVolume(ctx, "v", VolumeUpdate{RequestedProperties: chosen{SizeLimit: ptr(false)}})
	assertCode(t, err, agentapi.Invalid)
	assert.ErrorContains(t, err, "AGENT_TENANT_LIMITS")

	_, err = ten.UpdateVolume(ctx, "v", VolumeUpdate{SizeBytes: ptr(100 * mib)})
	assert.NilError(t, err)
	assert.DeepEqual(t, ten.stats(), TenantStats{Limits: TenantLimits{SizeBytes: 200 * mib}, Volumes: 2, SizeBytes: 200 * mib})
	assert.NilError(t, ten.DeleteVolume(ctx, "quota"))
	assert.Equal(t, ten.stats().SizeBytes, 100*mib)
}

// Concurrent creations and expansions stay within the limits, and use them fully.
func TestLimitsUnderConcurrentChanges(t *testing.T) {
	t.Parallel()
	const callers, fit = 24, 9
	ten := limitedTenant(t, TenantLimits{Volumes: fit, SizeBytes: 2 * fit * mib})
	var made, grown atomic.Int32
	side := func(change func(name string) error, count *atomic.Int32) {
		var all sync.WaitGroup
		for i := range callers {
			all.Go(func() {
				err := change(fmt.Sprint("v", i))
				if err == nil {
					count.Add(1)
					return
				}
				assertLimit(t, err, "")
			})
		}
		all.Wait()
	}
	side(func(name string) error {
		_, _, err := ten.CreateVolume(t.Context(), VolumeSpec{Name: name, SizeBytes: mib})
		return err
	}, &made)
	assert.Equal(t, made.Load(), int32(fit))
	names := []string{}
	for _, v := range ten.volumes.all() {
		names = append(names, v.Name)
	}
	side(func(name string) error {
		var i int
		_, err := fmt.Sscanf(name, "v%d", &i)
		assert.NilError(t, err)
		_, err = ten.UpdateVolume(t.Context(), names[i%len(names)], VolumeUpdate{SizeBytes: ptr(int64(i/len(names)+2) * mib)})
		if agentapi.IsCode(err, agentapi.Invalid) { // another caller has made it larger
			return nil
		}
		return err
	}, &grown)
	have := ten.stats()
	assert.Equal(t, have.SizeBytes, 2*fit*mib)
	assert.Equal(t, len(ten.admission.pending), 0)
}

// If a limit is lowered below what a tenant has, everything stays usable, and nothing can be added.
func TestLoweredLimit(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	config := Config{BasePath: pool.Dir, Tenants: []string{tenant}}
	s := reopened(t, config, newMemoryExporter())
	for _, name := range []string{"a", "b"} {
		mustCreate(t, mustTenant(t, s), name)
	}
	assert.NilError(t, s.Close(t.Context()))
	config.Limits = map[string]TenantLimits{tenant: {Volumes: 1, SizeBytes: 100 * mib}}
	ten := mustTenant(t, open(t, config, newMemoryExporter()))
	ctx := t.Context()

	assert.Equal(t, ten.stats().SizeBytes, 128*mib)
	a, err := ten.UpdateVolume(ctx, "a", VolumeUpdate{Labels: map[string]string{"still": "usable"}})
	assert.NilError(t, err)
	assert.NilError(t, writeBytes(a.Path, "file", 32*mib))
	_, err = ten.Export(ctx, "a", ExportSpec{Client: client1})
	assert.NilError(t, err)
	withSnapshotOf(t, ten, "a")
	_, err = ten.UpdateVolume(ctx, "a", VolumeUpdate{SizeBytes: ptr(65 * mib)})
	assertLimit(t, err, "")
	_, _, err = ten.Clone(ctx, CloneSpec{Name: "c", Snapshot: "s"})
	assertLimit(t, err, "at most 1 volumes")
	assert.NilError(t, ten.DeleteVolume(ctx, "b"))
	_, err = ten.UpdateVolume(ctx, "a", VolumeUpdate{SizeBytes: ptr(100 * mib)})
	assert.NilError(t, err)
}

// A failed change releases what it was admitted for.
func TestFailedChangesCountForNothing(t *testing.T) {
	t.Parallel()
	r := newTestEnv(t, smallPool)
	mustCreate(t, r.ten, "limited")
	before := r.ten.stats()
	r.store.config.Limits = map[string]TenantLimits{tenant: {Volumes: before.Volumes + 1, SizeBytes: before.SizeBytes + 64*mib}}
	for _, change := range []func() error{
		func() error {
			_, _, err := r.ten.CreateVolume(t.Context(), VolumeSpec{Name: "another", SizeBytes: 64 * mib})
			return err
		},
		func() error {
			_, _, err := r.ten.Clone(t.Context(), CloneSpec{Name: "another", Volume: "limited"})
			return err
		},
		func() error {
			_, err := r.ten.UpdateVolume(t.Context(), "limited", VolumeUpdate{SizeBytes: ptr(128 * mib)})
			return err
		},
	} {
		r.faults.arm(1, 2, unix.EIO)
		assert.ErrorIs(t, change(), unix.EIO)
		r.faults.disarm()
		r.store.reloadAll(t.Context())
		have := r.ten.stats()
		assert.Equal(t, have.Volumes, before.Volumes)
		assert.Equal(t, have.SizeBytes, before.SizeBytes)
	}
	mustCreate(t, r.ten, "another")
}
