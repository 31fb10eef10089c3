package storage

import (
	"fmt"
	"testing"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"
)

// The agent removes qgroups while the kernel drops deleted subvolumes. Removing one that the
// running transaction still counts would make the quotas inconsistent, and no limit would be
// enforced until a rescan.
func TestReapingKeepsQuotasConsistent(t *testing.T) {
	ten, _ := openTenant(t)
	const rounds, volumes = 4, 32
	for round := range rounds {
		together(volumes, func(i int) {
			v, _, err := ten.CreateVolume(t.Context(), VolumeSpec{Name: fmt.Sprintf("v%d", i), SizeBytes: 64 * mib})
			assert.Check(t, err)
			assert.Check(t, writeBytes(v.Path, "file", mib/4))
		})
		assert.NilError(t, commitNow(ten.store))
		together(volumes, func(i int) {
			assert.Check(t, ten.DeleteVolume(t.Context(), fmt.Sprintf("v%d", i)))
		})
		testpool.Eventually(t, func() poll.Result {
			assert.NilError(t, ten.store.removeQgroups(t.Context()))
			status, err := fsOf(t, ten.store).Quota()
			assert.NilError(t, err)
			assert.Assert(t, !status.Inconsistent, "round %d", round)
			groups, err := fsOf(t, ten.store).Qgroups()
			assert.NilError(t, err)
			return testpool.When(len(groups) == 2, "%d qgroups are left", len(groups)) // of the pool and of the reserve
		})
	}
	assertRules(t, ten.store)
}
