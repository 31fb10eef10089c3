//go:build crash

package crash_test

import (
	"flag"
	"testing"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/crash"
)

var faults = flag.Int("faults", 1, "how many faults of the disk TestFaultyDisk has, of eight")

// The disk fails during changes, and then the power fails. Changes that fail are answered with an
// error. On the repaired disk, the agent recovers all acknowledged changes. If the disk lost
// acknowledged writes, the agent recovers all changes before the first lost one.
func TestFaultyDisk(t *testing.T) {
	requireModule(t, "dm-flakey")
	all := []string{crash.WriteErrors, crash.LostWrites, crash.Errors, crash.ShortErrors}
	for i := range min(*faults, 2*len(all)) {
		fault := all[i%len(all)]
		c := crash.Config{Engine: engines[(i+i/len(all))%2], Quota: quotas[i/len(all)]}
		t.Run(fault+" "+c.Engine+" "+c.Quota, func(t *testing.T) {
			t.Parallel()
			env := newTestEnv(t)
			c.Seed = env.seed + uint64(i)
			faulty := c
			faulty.Fault = fault
			round := env.boot(faulty)
			round.awaitLoading()
			round.powerCut()
			c.Last = true
			env.last(c)
		})
	}
}
