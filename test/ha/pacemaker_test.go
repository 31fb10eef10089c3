//go:build ha

package ha_test

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/ha"
)

// configureCluster starts the cluster with the configuration of docs/two-hosts.md. Resource agents
// of the test replace systemd, which does not run in a guest.
func (p *pair) configureCluster() {
	p.t.Helper()
	p.write("hosts", fenced(p.t, "hosts"))
	p.write("corosync.conf", fenced(p.t, "corosync"))
	p.write("cluster.crm", strings.ReplaceAll(p.resources(), "systemd:", "ocf:lab:"))
	for _, host := range []string{alpha, beta} {
		p.run(host, "drbdadm down btrfs")
		p.joinCluster(host)
	}
	p.await("both hosts", func() bool {
		return strings.Contains(p.run(alpha, "timeout 30 crm_mon -1 2>&1 || true"), "Online: [ alpha beta ]")
	})
	p.run(alpha, "crm -F configure load update "+p.dir+"/cluster.crm")
	p.awaitActive(alpha, beta)
}

// resources returns the configuration of docs/two-hosts.md, with that page's changes for the kernel
// engine.
func (p *pair) resources() string {
	resources := fenced(p.t, "crm")
	if p.options.engine == "kernel" {
		resources = strings.NewReplacer(
			"systemd:nfs-server", "systemd:btrfs-nfs-server", "nfsdcld agent nfs-server", "nfsdcld nfs-server agent",
		).Replace(resources)
	}
	return resources
}

func (p *pair) joinCluster(host string) {
	p.t.Helper()
	p.run(host, "bash "+p.dir+"/storage.sh cluster")
}

// awaitActive returns the active host, once it is one of these and everything runs there.
func (p *pair) awaitActive(hosts ...string) string {
	p.t.Helper()
	active := ""
	p.await("the service", func() bool {
		for _, host := range hosts {
			out, _ := p.guest(host).Command("timeout", "30", "crm_mon", "-1").CombinedOutput()
			if strings.Contains(string(out), "(ocf:heartbeat:IPaddr2):\t Started "+host) {
				active = host
				return true
			}
		}
		return false
	})
	return active
}

// standby returns a command of the document, for the host that Pacemaker has chosen.
func standby(t *testing.T, verb, host string) string {
	t.Helper()
	command := "crm node " + verb + " "
	assert.Equal(t, fenced(t, "\n"+command), alpha+"\n")
	return command + host
}

func other(host string) string {
	if host == alpha {
		return beta
	}
	return alpha
}

// turnReadOnly makes btrfs refuse writes, as it does when its metadata cannot be written. mount(8)
// cannot do that while files are open for writing. FS_IOC_SHUTDOWN (linux/fs.h) is in btrfs since
// Linux 6.19.
const turnReadOnly = `perl -e 'open(my $fs, "<", "/srv/btrfs") or die $!; my $how = pack("L", 2); ioctl($fs, 0x8004587d, $how) or die $!'`

// Pacemaker with the documented configuration moves the service on request, when the power of a
// host fails, and when the pool becomes read-only. A cut replication link does not move it.
func TestPacemaker(t *testing.T) {
	for _, engine := range engines {
		t.Run(engine, func(t *testing.T) {
			p := newPair(t, options{engine: engine, pacemaker: true})
			first := p.awaitActive(alpha, beta)
			p.work()
			p.run(first, standby(t, "standby", first))
			second := p.awaitActive(other(first))
			p.progress()
			assert.DeepEqual(t, p.events(ha.Name), []string(nil))
			p.awaitState(first, "drbdadm cstate btrfs || echo down", "down") // DRBD stops there after the move
			p.run(second, standby(t, "online", first))
			p.awaitMirror()

			p.ports[first][1].Cut()
			p.awaitState(second, "drbdadm dstate btrfs", "UpToDate/Outdated")
			p.progress()
			p.ports[first][1].Restore()
			p.awaitMirror()
			assert.Equal(t, p.awaitActive(alpha, beta), second)

			p.cut(second)
			p.awaitActive(first)
			assert.Assert(t, p.fenced(second))
			p.progress()
			p.boot(second)
			p.joinCluster(second)
			p.awaitMirror()

			p.verify()
			assert.Equal(t, p.awaitActive(alpha, beta), first)
			p.run(first, turnReadOnly)
			p.awaitActive(second)
		})
	}
}
