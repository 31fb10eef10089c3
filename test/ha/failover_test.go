//go:build ha

package ha_test

import (
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/ha"
)

var engines = []string{"exportfs", "kernel"}

// An administrator moves the service. Clients continue with their open files and locks, and no
// request is executed twice.
func TestPlannedMove(t *testing.T) {
	for _, engine := range engines {
		t.Run(engine, func(t *testing.T) {
			p := newPair(t, options{engine: engine})
			p.work()
			p.demote(alpha)
			p.promote(beta)
			p.progress()
			p.verify()
			assert.DeepEqual(t, p.events(ha.Name), []string(nil))
		})
	}
}

// The power of the active host fails. The other one continues with all fsynced data. When the first
// is back, it gets the missed changes, and the service can move to it.
func TestPowerCut(t *testing.T) {
	for _, engine := range engines {
		t.Run(engine, func(t *testing.T) {
			p := newPair(t, options{engine: engine, database: ha.PostgreSQL() != ""})
			p.work()
			p.cut(alpha)
			p.promote(beta)
			p.progress()

			p.boot(alpha)
			p.run(alpha, "drbdadm up btrfs")
			p.awaitMirror()
			p.progress()
			p.demote(beta)
			p.promote(alpha)
			p.progress()
			p.verify()
		})
	}
}

// Without the link between the hosts, no request is answered until the passive host has been
// fenced. Then the active one continues alone.
func TestCutReplicationLink(t *testing.T) {
	for _, engine := range engines {
		t.Run(engine, func(t *testing.T) {
			p := newPair(t, options{engine: engine, database: ha.PostgreSQL() != ""})
			p.work()
			p.ports[alpha][1].Cut()
			p.await("the fence", func() bool { return p.fenced(beta) })
			p.progress()

			p.ports[alpha][1].Restore()
			p.boot(beta)
			p.run(beta, "drbdadm up btrfs")
			p.awaitMirror()
			p.demote(alpha)
			p.promote(beta)
			p.progress()
			p.verify()
		})
	}
}

// The disk of the active host fails. DRBD continues with the disk of the other one. The disk is
// replaced after the service has moved.
func TestFailedDisk(t *testing.T) {
	p := newPair(t, options{engine: "exportfs", database: ha.PostgreSQL() != ""})
	p.work()
	p.disk(alpha, "error")
	p.awaitState(alpha, "drbdadm dstate btrfs", "Diskless/UpToDate")
	p.progress()
	p.demote(alpha)
	p.promote(beta)
	p.disk(alpha, "linear /dev/ubda 0")
	p.run(alpha, "drbdadm create-md --force btrfs && drbdadm attach btrfs")
	p.awaitMirror()
	p.progress()
	p.verify()
}

// The counter-check: for clients, a server whose scope is the name of its host is a different
// server after a move, so that they reclaim nothing.
func TestHostNameAsScope(t *testing.T) {
	p := newPair(t, options{engine: "exportfs", hostScope: true})
	p.work()
	p.demote(alpha)
	p.promote(beta)
	p.await("the loss of the lock", func() bool { return p.lost() })
}
