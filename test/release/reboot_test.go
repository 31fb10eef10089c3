//go:build lab

package release

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// held is the unit that the test delays at a reboot, by engine: the agent has to start after both.
var held = map[string]string{"exportfs": "nfs-server.service", "kernel": "srv-btrfs.mount"}

// reboots reboots a host with an installed agent, while a client has a file open. The agent starts
// again after the NFS server and the pool's mount, with all volumes. The client continues.
func reboots(t *testing.T, h *host, engine string) {
	h.installs(engine)
	assert.Assert(t, strings.HasSuffix(h.run("cat /proc/fs/nfsd/versions"), "-3 +4 -4.0 +4.1 +4.2\n"))
	agent := h.agent(engine)
	h.run(agent + "volume create kept 64Mi && " + agent + "export add kept " + clientAddress)
	file := filepath.Join(mounted(t, "/srv/btrfs/"+engine+"/kept/data"), "file")
	// The client is another process, because this one could not start programs without the server. Its
	// children would inherit the file until they execute a program. The close then waits for writes
	// (fs/nfs/nfs4file.c, nfs4_file_flush), and Go waits for that (vfork).
	client := exec.Command("sh", "-c", "exec >> $0 && echo before && read and && echo after", file)
	goOn, err := client.StdinPipe()
	assert.NilError(t, err)
	assert.NilError(t, client.Start())
	t.Cleanup(func() { _ = client.Process.Kill() })
	contains := func(text string) func() bool {
		return func() bool { content, _ := os.ReadFile(file); return string(content) == text }
	}
	h.waitFor("what the client has written", contains("before\n"))
	list := agent + "volume list -o name && " + agent + "export list kept -c volume,client,access"
	before, failed := h.run(list), h.failures()
	assert.Assert(t, is.Contains(before, clientAddress))

	h.mountsAtBoot()
	h.holdsBack(held[engine])
	h.off()
	h.on()
	h.waitFor("an agent that waits for "+held[engine]+" and nothing else", func() bool {
		return slices.Equal(h.waitsFor("btrfs-nfs-agent.service"), []string{held[engine]})
	})
	assert.Equal(t, h.run("systemctl show -P ActiveState btrfs-nfs-agent"), "inactive\n")
	h.run("touch /run/go")
	h.waitUntilBooted()

	assert.Equal(t, h.run("systemctl is-active btrfs-nfs-agent && systemctl show -P NRestarts btrfs-nfs-agent"), "active\n0\n")
	assert.Equal(t, h.run(list), before)
	assert.Assert(t, is.Contains(h.run(agent+"health"), "ok"))
	assert.Equal(t, h.run("btrfs-nfs-agent doctor -o json | grep -o 'btrfs-nfs-[0-9a-f-]*\"' | tr -d '\"'"), h.run("btrfs-nfs-agent nfs scope"), "the scope of the server that runs")
	for _, check := range h.failures() {
		assert.Check(t, slices.Contains(failed, check), "only after the reboot: %s", check)
	}
	_, err = goOn.Write([]byte("and\n"))
	assert.NilError(t, err)
	assert.NilError(t, client.Wait())
	h.waitFor("what the client goes on to write", contains("before\nafter\n"))
	h.run("rm -r /etc/systemd/system/held.service /etc/systemd/system/" + held[engine] + ".d && systemctl daemon-reload")
}

// installs installs the agent on an empty device, as on a new host.
func (h *host) installs(engine string) {
	h.t.Helper()
	h.run("/media/new/install.sh uninstall --purge")
	h.waitFor("an end of the former pool", func() bool {
		_, err := h.try("! mountpoint -q /srv/btrfs || umount /srv/btrfs")
		return err == nil
	})
	h.run(`wipefs -aq ` + h.device + ` && sed -i '\| /srv/btrfs |d' /etc/fstab`)
	h.run("/media/new/install.sh --base-path /srv/btrfs --tenant " + engine + " --device " + h.device + " --confirm-device " + h.device + " --engine " + engine)
}

// failures returns the checks of doctor that fail.
func (h *host) failures() []string {
	h.t.Helper()
	out, _ := h.try("btrfs-nfs-agent doctor") // fails if a check fails
	assert.Assert(h.t, is.Contains(out, "\nok    base path "))
	var failed []string
	for line := range strings.Lines(out) {
		if check, fails := strings.CutPrefix(line, "FAIL  "); fails {
			failed = append(failed, strings.TrimSpace(check[:13]))
		}
	}
	return failed
}

// mountsAtBoot does what systemd does at boot with the line in fstab from install.sh. systemd
// recognizes a container by a read-only /sys, and then skips devices, because there is no udev
// (systemd's fstab-generator.c, parse_fstab). With nofail, only units that request the mount wait
// for it.
func (h *host) mountsAtBoot() {
	h.t.Helper()
	const units = "/etc/systemd/system"
	h.run("grep ' /srv/btrfs btrfs noatime,nofail 0 0' /etc/fstab")
	h.run("cd " + units + " && rm -f srv-btrfs.mount local-fs.target.*/srv-btrfs.mount")
	h.run("unshare -m sh -c 'mount -o remount,bind,rw /sys && /lib/systemd/system-generators/systemd-fstab-generator " + strings.Repeat(" "+units, 3) + "'")
	h.run("sed -i 's|^What=.*|What=" + h.device + "|' " + units + "/srv-btrfs.mount")
}

// holdsBack makes a unit wait, from the next boot on, until /run/go exists.
func (h *host) holdsBack(unit string) {
	h.t.Helper()
	h.run(`cd /etc/systemd/system && mkdir -p ` + unit + `.d && printf '[Unit]\nWants=held.service\nAfter=held.service\n' > ` + unit + `.d/held.conf
		printf '[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c "until [ -e /run/go ]; do sleep 0.1; done"\n' > held.service`)
}

// off shuts the machine down. That also ends the NFS state of its kernel. The lab's kernel
// continues, so the test drops that state. Without systemd outside the container, its control
// groups also stay, and the next one could not start in them.
func (h *host) off() {
	h.t.Helper()
	_, _ = h.try("systemctl poweroff") // the command may end with the machine
	select {
	case <-h.ended:
	case <-time.After(5 * time.Minute):
		h.t.Fatal("the machine is not off")
	}
	h.leader = ""
	command(h.t, "sh", "-ec", `mountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd
		echo 0 > /proc/fs/nfsd/threads
		for cache in /proc/net/rpc/*/flush; do echo 1 > $cache; done
		find "/sys/fs/cgroup/$(sed -n s/^0:://p /proc/self/cgroup)/payload" -depth -type d -exec rmdir {} +`)
	h.waitFor("a device that is not mounted any more", func() bool {
		device, err := os.OpenFile(h.device, os.O_RDONLY|syscall.O_EXCL, 0)
		if err != nil {
			return false
		}
		return device.Close() == nil
	})
}

// waitsFor returns the units that a unit waits for at its start.
func (h *host) waitsFor(unit string) []string {
	out, _ := h.try("systemctl list-jobs --before --full --no-legend")
	var of string
	var units []string
	for line := range strings.Lines(out) {
		_, job, waits := strings.Cut(line, "waiting for job ")
		switch fields := strings.Fields(line); {
		case waits && of == unit:
			_, name, _ := strings.Cut(job, "(")
			name, _, _ = strings.Cut(name, "/")
			units = append(units, name)
		case !waits && len(fields) > 1:
			of = fields[1]
		}
	}
	return units
}

// watchdogLimit is short for a test, and long enough for a machine that pauses.
const watchdogLimit = 20 * time.Second

// hangs stops the agent's process completely, so that it sends no more watchdog messages. systemd
// kills it, and the next one serves. systemd leaves an agent that sends them alone.
func hangs(t *testing.T, h *host, engine string) {
	const dropIn = "/etc/systemd/system/btrfs-nfs-agent.service.d/hangs.conf"
	agent := h.agent(engine)
	h.run(agent + "volume create hung 64Mi && " + agent + "export add hung " + clientAddress)
	client := write(t, mounted(t, "/srv/btrfs/"+engine+"/hung/data"))
	h.run(fmt.Sprintf("printf '[Service]\\nWatchdogSec=%d\\n' > %s && systemctl daemon-reload && systemctl restart btrfs-nfs-agent", int(watchdogLimit.Seconds()), dropIn))

	since := func(property string) time.Duration {
		us, err := strconv.ParseInt(strings.TrimSpace(h.run("systemctl show -P "+property+" btrfs-nfs-agent")), 10, 64)
		assert.NilError(t, err)
		return time.Duration(us) * time.Microsecond
	}
	h.waitFor("a sign of life after the limit", func() bool {
		return since("WatchdogTimestampMonotonic") > since("ActiveEnterTimestampMonotonic")+watchdogLimit
	})
	assert.Equal(t, h.run("systemctl show -P NRestarts btrfs-nfs-agent"), "0\n")

	client.phase(t)
	pid := h.run("systemctl show -P MainPID btrfs-nfs-agent")
	h.run("kill -STOP " + pid)
	h.waitFor("another agent", func() bool {
		_, err := h.try("timeout 10 env " + agent + "volume get hung")
		return err == nil
	})
	assert.Assert(t, h.run("systemctl show -P MainPID btrfs-nfs-agent") != pid)
	assert.Assert(t, h.run("systemctl show -P NRestarts btrfs-nfs-agent") != "0\n")
	assert.Assert(t, is.Contains(h.run("journalctl --no-pager -o cat -u btrfs-nfs-agent"), "Watchdog timeout (limit "+fmt.Sprint(int(watchdogLimit.Seconds()))+"s)!"))
	h.run(agent + "volume create after-it 64Mi && " + agent + "export add after-it " + clientAddress)
	mounted(t, "/srv/btrfs/"+engine+"/after-it/data")
	t.Logf("%s engine: while the agent hung, the client's slowest turn took %v", engine, client.phase(t))
	h.run("rm " + dropIn + " && systemctl daemon-reload && systemctl restart btrfs-nfs-agent")
}
