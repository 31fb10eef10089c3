package pool

import (
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
)

// The kernel has dropped a subvolume and has not yet subtracted it. This moment lies between two
// steps of the kernel, and no test can stop it there. So this test makes up the numbers.
func TestQgroupThatStillCountsIsLeftAlone(t *testing.T) {
	groups := map[uint64]btrfs.Qgroup{
		1: {},
		2: {Referenced: 4096},
		3: {Exclusive: 4096},
	}
	assert.DeepEqual(t, countedOut([]uint64{1, 2, 3, 4}, groups), []uint64{1, 4})
}

// The agent retries a qgroup that a clone may hold for years at growing intervals. A deletion
// resets the interval.
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
