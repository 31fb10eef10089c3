//go:build lab

package nfstest

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// Measure times single publishes and revokes while so many exports, to a
// hundred clients, are there already, and logs medians and longest times.
func Measure(t *testing.T, subject Subject, counts ...int) {
	s := &suite{Subject: subject, w: NewWorld(t)}
	for _, count := range counts {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			r := &run{suite: s}
			r.w.t = t
			exports := make([]nfs.Export, count)
			for i := range exports {
				exports[i] = r.w.Directory(fmt.Sprint("there", i), measureClient(i))
			}
			started := time.Now()
			r.engine = s.start(t, exports...)
			t.Logf("%d exports at start: %v", count, time.Since(started).Round(time.Millisecond))

			const samples = 50
			more := make([]nfs.Export, samples)
			for i := range more {
				more[i] = r.w.Directory(fmt.Sprint("more", i), measureClient(i))
			}
			t.Logf("%d exports: publish %s", count, r.time(t, more, r.export))
			t.Logf("%d exports: revoke %s", count, r.time(t, more, r.unexport))
			t.Logf("%d exports: publish again %s", count, r.time(t, more, r.export))
			started = time.Now()
			r.unexport(t, slices.Concat(exports, more)...)
			t.Logf("%d exports revoked in one call: %v", count+samples, time.Since(started).Round(time.Millisecond))
		})
	}
}

func measureClient(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 97, 0, byte(i%100 + 1)}) }

// time does something to one export after the other.
func (r *run) time(t *testing.T, exports []nfs.Export, do func(*testing.T, ...nfs.Export)) string {
	t.Helper()
	var took []time.Duration
	for _, export := range exports {
		started := time.Now()
		do(t, export)
		took = append(took, time.Since(started))
	}
	slices.Sort(took)
	return fmt.Sprintf("p50 %v, p90 %v, longest %v", took[len(took)/2], took[len(took)*9/10], took[len(took)-1])
}
