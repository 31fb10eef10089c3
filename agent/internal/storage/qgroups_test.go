package storage

import (
	"fmt"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
)

// Qgroups are reaped while the kernel drops deleted subvolumes. To remove one that the running transaction still counts would
// make the quotas inconsistent, and no limit would hold until a rescan.
func TestReapingKeepsQuotasConsistent(t *testing.T) {
	ten, _ := openTenant(t)
	const rounds, volumes = 4, 32
	for round := range rounds {
		together(volumes, func(i int) {
			v, _, err := ten.CreateVolume(t.Context(), VolumeSpec{Name: fmt.Sprintf("v%d", i), SizeBytes: 64 * mib})
			assert.Check(t, err)
			assert.Check(t, writeBytes(v.Path, "file", mib/4))
		})
		assert.NilError(t, ten.store.pool.fs.Commit(t.Context()))
		together(volumes, func(i int) {
			assert.Check(t, ten.DeleteVolume(t.Context(), fmt.Sprintf("v%d", i)))
		})
		eventually(t, func() poll.Result {
			assert.NilError(t, ten.store.reapQgroups(t.Context()))
			status, err := ten.store.pool.fs.Quota()
			assert.NilError(t, err)
			assert.Assert(t, !status.Inconsistent, "round %d", round)
			groups, err := ten.store.pool.fs.Qgroups()
			assert.NilError(t, err)
			return when(len(groups) == 2, "%d qgroups are left", len(groups)) // of the pool and of the reserve
		})
	}
	assertRules(t, ten.store)
}

// The moment in which the kernel has dropped a subvolume and not yet counted it out lies between two of its own steps: no test
// can stop it there, so this one makes up the numbers.
func TestQgroupThatStillCountsIsLeftAlone(t *testing.T) {
	groups := map[uint64]btrfs.Qgroup{
		1: {},
		2: {Referenced: 4096},
		3: {Exclusive: 4096},
	}
	assert.DeepEqual(t, countedOut([]uint64{1, 2, 3, 4}, groups), []uint64{1, 4})
}

// What a clone may hold for years is tried ever more rarely, and again from the beginning after a deletion.
func TestHeldQgroupsAreTriedEverMoreRarely(t *testing.T) {
	var held heldQgroups
	tries := func(looks int) (out []int) {
		for look := range looks {
			if held.due(false) {
				held.wait()
				out = append(out, look)
			}
		}
		return out
	}
	assert.Equal(t, len(tries(3)), 0)
	assert.Assert(t, held.due(true))
	held.wait()
	assert.DeepEqual(t, tries(200), []int{0, 2, 6, 14, 30, 62, 126, 190})
	assert.Assert(t, held.due(true))
	held.wait()
	assert.DeepEqual(t, tries(3), []int{0, 2})
}
