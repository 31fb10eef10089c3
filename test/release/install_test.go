//go:build release

package release

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// From the tarball and an empty disk to a volume, then upgrade in place, crash, stop and removal.
// It runs on a real systemd, in the unit's sandbox.
func TestInstall(t *testing.T) {
	t.Parallel() // it mostly waits
	h := bootHere(t, unpacked(t)+":/media")
	install := "/media/install.sh --base-path /srv/btrfs --device " + h.device + " "

	// The installer changes nothing without confirmation, or in a dry run.
	out, err := h.try(install + "</dev/null")
	assert.ErrorContains(t, err, "exit status 1", out)
	assert.Assert(t, is.Contains(out, "was left alone"))
	out = h.run(install + "--dry-run")
	assert.Assert(t, is.Contains(out, "would ask, create a btrfs filesystem on "+h.device))
	out, err = h.try("ls /etc/btrfs-nfs-agent /usr/local/bin/btrfs-nfs-agent; blkid -p " + h.device)
	assert.ErrorContains(t, err, "exit status", out)

	h.refusesPartitions(install)
	out = h.run(install + "--engine exportfs --confirm-device " + h.device)
	assert.Assert(t, is.Contains(out, "is installed. Volumes: /srv/btrfs"))
	h.waitFor("the agent", func() bool { out, _ := h.try("systemctl is-active btrfs-nfs-agent"); return out == "active\n" })
	assert.Equal(t, h.run("stat -c %a /etc/btrfs-nfs-agent/agent.env"), "600\n")
	assert.Assert(t, is.Contains(h.run("cat /etc/fstab"), " /srv/btrfs btrfs noatime,nofail 0 0\n"))
	token := strings.TrimSpace(h.run("sed -n 's/^AGENT_TENANTS=default://p' /etc/btrfs-nfs-agent/agent.env"))
	assert.Equal(t, len(token), 64)

	h.isPinned()
	h.setsScope()

	// The agent works in its sandbox: subvolume, quota, snapshot, clone, owner, set-group-ID, usage.
	agent := "AGENT_URL=http://localhost:8080 AGENT_TOKEN=" + token + " btrfs-nfs-agent "
	h.run(agent + "volume create v 64Mi --uid 1000 --gid 1000 --mode 2770 --compression zstd")
	h.run(agent + "snapshot create v s && " + agent + "clone c --snapshot s --size +1Mi && " + agent + "volume set c --uid 7 && " + agent + "volume resize v +1Mi")
	assert.Equal(t, h.run("stat -c '%u %g %a' /srv/btrfs/default/v/data"), "1000 1000 2770\n")
	assert.Assert(t, is.Contains(h.run("btrfs qgroup show -re --raw /srv/btrfs"), "68157440"))
	out, err = h.try("dd if=/dev/urandom of=/srv/btrfs/default/v/data/x bs=1M count=100 conv=fsync")
	assert.ErrorContains(t, err, "exit status", out)
	assert.Assert(t, is.Contains(out, "quota"))
	h.run(agent + "snapshot delete s -y && " + agent + "volume delete c -y")
	assert.Equal(t, h.run("systemctl show -P WatchdogUSec -P NRestarts btrfs-nfs-agent"), "1min\n0\n")
	assert.Assert(t, is.Contains(h.run("systemctl show -P RequiresMountsFor btrfs-nfs-agent"), "/srv/btrfs"))

	h.publishesInOneRun(agent)

	// A second installation is an upgrade in place: the same settings and token, another process, and
	// the volume still exists.
	pid := h.run("systemctl show -P MainPID btrfs-nfs-agent")
	out = h.run("/media/install.sh")
	assert.Assert(t, is.Contains(out, "keeping the settings"))
	assert.Assert(t, pid != h.run("systemctl show -P MainPID btrfs-nfs-agent"))
	assert.Assert(t, is.Contains(h.run(agent+"volume list -o name"), "v"))

	h.isPinned()
	h.refusesToStartUnmounted()
	h.keepsItsSettings()
	h.setsVersions()
	h.restartsStaleMountd()

	// A killed agent comes back. A stopped one has drained.
	h.run("kill -KILL $(systemctl show -P MainPID btrfs-nfs-agent)")
	h.waitFor("the agent again", func() bool { _, err := h.try(agent + "volume get v"); return err == nil })
	h.run("systemctl stop btrfs-nfs-agent && test $(systemctl show -P Result btrfs-nfs-agent) = success")
	h.run("btrfs-nfs-agent check --help >/dev/null && set -a && . /etc/btrfs-nfs-agent/agent.env && btrfs-nfs-agent check")
	for _, file := range []string{"share/man/man1/btrfs-nfs-agent-volume-create.1", "share/bash-completion/completions/btrfs-nfs-agent", "share/zsh/site-functions/_btrfs-nfs-agent"} {
		h.run("test -s /usr/local/" + file)
	}
	h.run("bash -c '. /usr/local/share/bash-completion/completions/btrfs-nfs-agent && complete -p btrfs-nfs-agent'")

	// The passive host of two is upgraded without the pool, and keeps the scope. A start needs the
	// pool.
	scope := h.run("umount /srv/btrfs && cat /etc/systemd/system/nfs-server.service.d/btrfs-nfs-csi-scope.conf")
	h.run("echo '# of an older version' >> /etc/systemd/system/nfs-server.service.d/btrfs-nfs-csi-scope.conf")
	out = h.run("/media/install.sh --no-start")
	assert.Assert(t, is.Contains(out, "/srv/btrfs is not mounted: the agent starts when it is"))
	assert.Assert(t, !strings.Contains(out, "gets the scope"), "the scope is the same")
	assert.Equal(t, h.run("cat /etc/systemd/system/nfs-server.service.d/btrfs-nfs-csi-scope.conf"), scope)
	out = h.run("cd /etc/systemd/system/nfs-server.service.d && mv btrfs-nfs-csi-scope.conf /run && /media/install.sh --no-start && mv /run/btrfs-nfs-csi-scope.conf . && systemctl daemon-reload")
	assert.Assert(t, is.Contains(out, "the NFS server gets no scope"))
	out, err = h.try("/media/install.sh")
	assert.ErrorContains(t, err, "exit status 1", out)
	assert.Assert(t, is.Contains(out, "--base-path must be on btrfs, got /srv/btrfs"))
	h.run("mount /srv/btrfs")
	// Pacemaker starts the agent before the NFS server.
	assert.Equal(t, h.run("systemctl stop nfs-server && systemctl start btrfs-nfs-agent && systemctl show -P ActiveState btrfs-nfs-agent nfs-server"), "active\n\ninactive\n")
	h.run("systemctl start nfs-server && systemctl stop btrfs-nfs-agent")

	// The installer refuses a device with data, even with confirmation.
	out, err = h.try("umount /srv/btrfs && " + install + "--confirm-device " + h.device)
	assert.ErrorContains(t, err, "exit status 1", out)
	assert.Assert(t, is.Contains(out, "--device must be empty, got "+h.device+" with btrfs"))
	h.run("mount /srv/btrfs")

	out = h.run("/media/install.sh uninstall")
	assert.Assert(t, is.Contains(out, "keeping /etc/btrfs-nfs-agent/agent.env with the tokens"))
	h.run("test -s /etc/btrfs-nfs-agent/agent.env && test ! -e /usr/local/bin/btrfs-nfs-agent && test -d /srv/btrfs/default/v/data")
	h.run("/media/install.sh uninstall --purge")
	assert.Equal(t, h.run("find / -xdev -name '*btrfs-nfs*' -not -path '/media/*' -not -path '/proc/*' -not -path '/tmp/*' -not -path '/sys/*'"), "")
	h.run("test -d /srv/btrfs/default/v/data")
}

// refusesToStartUnmounted starts the agent on an empty directory of a btrfs. This is the state if
// the pool is not mounted and the filesystem below is also btrfs.
func (h *host) refusesToStartUnmounted() {
	h.t.Helper()
	h.run("systemctl stop btrfs-nfs-agent && mkdir /srv/btrfs/.below && mount --bind /srv/btrfs/.below /srv/btrfs")
	out, err := h.try("set -a && . /etc/btrfs-nfs-agent/agent.env && timeout 60 btrfs-nfs-agent")
	assert.ErrorContains(h.t, err, "exit status 1", out)
	assert.Check(h.t, is.Contains(out, "base path /srv/btrfs has no pool ID: is the filesystem mounted?"))
	out, _ = h.try("btrfs-nfs-agent doctor")
	assert.Check(h.t, is.Contains(out, "not mounted: /srv/btrfs has no pool ID, AGENT_POOL_ID is "))
	// The filesystem below the mount point is also btrfs. The installer creates nothing there, and
	// does not set the scope of the NFS server.
	assert.Check(h.t, is.Contains(h.run("/media/install.sh --no-start"), "/srv/btrfs is not mounted: the agent starts when it is"))
	assert.Equal(h.t, h.run("ls -A /srv/btrfs"), "")
	h.run("umount /srv/btrfs && rmdir /srv/btrfs/.below && systemctl start btrfs-nfs-agent")
}

// setsScope: the NFS server starts with the pool's scope as its host name, and the host keeps its
// name. An upgrade does not restart the server. The sandbox of the unit allows the kernel engine to
// do the same.
func (h *host) setsScope() {
	h.t.Helper()
	const dropIn, installer = "/etc/systemd/system/nfs-server.service.d/btrfs-nfs-csi-scope.conf", "/media/install.sh"
	want, name := "btrfs-nfs-"+h.run("findmnt -n -o UUID --target /srv/btrfs"), h.run("hostname")
	scope := func() string { return h.run("cat /run/name-of-nfs-server") }
	assert.Equal(h.t, scope(), want)
	assert.Equal(h.t, h.run("btrfs-nfs-agent nfs scope"), want)
	assert.Assert(h.t, name != want)
	assert.Assert(h.t, !strings.Contains(h.run(installer), "gets the scope"))

	h.run("rm " + dropIn + " && systemctl daemon-reload && systemctl restart nfs-server")
	assert.Equal(h.t, scope(), name, "without the drop-in")
	assert.Assert(h.t, is.Contains(h.run(installer), "gets the scope "+strings.TrimSpace(want)+" at its next start"))
	assert.Equal(h.t, scope(), name)
	h.run("systemctl restart nfs-server")
	assert.Equal(h.t, scope(), want)
	assert.Equal(h.t, h.run("hostname"), name)

	// /proc/sys is read-only in this container, but not on a host.
	h.run("mount -o remount,bind,rw /proc/sys")
	h.run(`sed -e 's/^Type=.*/Type=oneshot/' -e 's/^\(Restart\|Watchdog\|Environment\|Notify\).*//' -e 's|^ExecStart=.*|ExecStart=/usr/bin/unshare --uts /bin/sh -c "! hostname other \&\& echo other >/proc/sys/kernel/hostname \&\& hostname >/run/name-in-sandbox"|' ` +
		"/media/btrfs-nfs-agent.service >/etc/systemd/system/sandbox.service && systemctl daemon-reload && systemctl start sandbox")
	assert.Equal(h.t, h.run("cat /run/name-in-sandbox; hostname"), "other\n"+name)
	h.run("rm /etc/systemd/system/sandbox.service; systemctl daemon-reload; mount -o remount,bind,ro /proc/sys")
}

// publishesInOneRun makes the agent publish twenty volumes at its start that nfs-utils do not know.
// In the unit's sandbox, it takes one run of exportfs, and not one per volume, each of which would
// read all exports.
func (h *host) publishesInOneRun(agent string) {
	h.t.Helper()
	const many = "for i in $(seq 20); do "
	h.run("set -e; " + many + agent + "volume create many-$i 1Mi; " + agent + "export add many-$i " + clientAddress + "; done")
	h.run("systemctl stop btrfs-nfs-agent && rm /etc/exports.d/btrfs-nfs-csi.exports && exportfs -au && systemctl start btrfs-nfs-agent")
	assert.Equal(h.t, h.run("grep -c /many- /var/lib/nfs/etab"), "20\n")
	journal := h.run("journalctl --no-pager -o cat -u btrfs-nfs-agent")
	assert.Assert(h.t, !strings.Contains(journal, "published one by one"), journal)
	h.run("set -e; " + many + agent + "export remove -y many-$i " + clientAddress + "; " + agent + "volume delete -y many-$i; done")
}

// keepsItsSettings calls the installer with arguments that contradict existing settings. The
// installer changes nothing on the host, and explains how to change them. It accepts arguments that
// agree.
func (h *host) keepsItsSettings() {
	h.t.Helper()
	const state = "systemctl show -P InvocationID btrfs-nfs-agent nfs-server; cat /etc/btrfs-nfs-agent/agent.env /etc/systemd/system/btrfs-nfs-agent.service.d/*"
	before := h.run(state)
	for options, says := range map[string]string{
		"--engine kernel":       "--engine kernel contradicts AGENT_NFS_EXPORTER=exportfs in /etc/btrfs-nfs-agent/agent.env: to change the engine, run systemctl stop btrfs-nfs-agent, ",
		"--base-path /srv":      "--base-path /srv contradicts AGENT_BASE_PATH=/srv/btrfs in ",
		"--tenant other":        "--tenant must be a tenant in /etc/btrfs-nfs-agent/agent.env, got other: add other:TOKEN ",
		"--dry-run --tenant de": "--tenant must be a tenant in /etc/btrfs-nfs-agent/agent.env, got de: ",
	} {
		out, err := h.try("/media/install.sh " + options)
		assert.ErrorContains(h.t, err, "exit status 1", out)
		assert.Check(h.t, is.Contains(out, says))
	}
	assert.Equal(h.t, h.run(state), before)
	h.run("/media/install.sh --engine exportfs --base-path /srv/btrfs/ --tenant default")
}

// setsVersions turns NFSv3 and NFSv4.0 on and off, which restarts the NFS server. They stay as they
// are without an argument, and if an older installer that left them on has set up the server.
func (h *host) setsVersions() {
	h.t.Helper()
	const settings, without = "/etc/nfs.conf.d/btrfs-nfs-csi.conf", "vers2=n\nvers3=n\nvers4.0=n\n"
	server := func() string { return h.run("systemctl show -P InvocationID nfs-server") }
	assert.Check(h.t, is.Contains(h.run("cat "+settings), without), "a new host")
	for _, step := range []struct {
		option    string
		off, anew bool
	}{{"", true, false}, {"--older-nfs on", false, true}, {"", false, false}, {"--older-nfs off", true, true}, {"--older-nfs off", true, false}} {
		before := server()
		out := h.run("/media/install.sh " + step.option)
		assert.Check(h.t, is.Contains(out, map[bool]string{true: "offers NFSv4.1 and 4.2 only", false: "offers NFSv3 and NFSv4.0, which volumes do not need"}[step.off]))
		assert.Check(h.t, strings.Contains(h.run("cat "+settings), without) == step.off, "%+v", step)
		assert.Check(h.t, (server() != before) == step.anew, "%+v", step)
	}
	out, err := h.try("/media/install.sh --older-nfs maybe")
	assert.ErrorContains(h.t, err, "exit status 1", out)
	assert.Check(h.t, is.Contains(out, "--older-nfs must be on or off, got maybe"))
}

// restartsStaleMountd writes settings without a start while an rpc.mountd that manages groups runs.
// The installer reports that. The next start restarts the server, and the one after that does not.
func (h *host) restartsStaleMountd() {
	h.t.Helper()
	// The process has the file open by which rpc.mountd answers for groups.
	h.run("mkdir -p /run/auth.unix.gid && echo > /run/auth.unix.gid/channel && rm /etc/nfs.conf.d/btrfs-nfs-csi.conf")
	h.run("printf '[Unit]\nPartOf=nfs-server.service\n[Service]\nExecStart=/bin/sh -c \"[ -e /etc/nfs.conf.d/btrfs-nfs-csi.conf ] || exec </run/auth.unix.gid/channel; exec sleep infinity\"\n' > /etc/systemd/system/nfs-mountd.service")
	h.run("systemctl daemon-reload && systemctl start nfs-mountd")
	h.waitFor("a mountd that manages groups", func() bool {
		out, _ := h.try("ls -l /proc/$(systemctl show -P MainPID nfs-mountd)/fd")
		return strings.Contains(out, "auth.unix.gid/channel")
	})
	server := func() string { return h.run("systemctl show -P InvocationID nfs-server nfs-mountd") }
	before := server()
	for range 2 {
		assert.Check(h.t, is.Contains(h.run("/media/install.sh --no-start"), "rpc.mountd still manages groups, until the NFS server is restarted: systemctl restart nfs-server, unless a cluster"))
		assert.Equal(h.t, server(), before)
	}
	assert.Check(h.t, is.Contains(h.run("/media/install.sh"), "waiting half a minute"))
	restarted := server()
	assert.Check(h.t, restarted != before)
	h.run("/media/install.sh")
	assert.Equal(h.t, server(), restarted)
	h.run("systemctl stop nfs-mountd; rm -r /etc/systemd/system/nfs-mountd.service /run/auth.unix.gid; systemctl daemon-reload")
}

// refusesPartitions writes an MBR with one partition and no filesystem to the disk. blkid reports
// no TYPE for it.
func (h *host) refusesPartitions(install string) {
	h.t.Helper()
	mbr := make([]byte, 512)
	copy(mbr[446:], []byte{0, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0}) // 1 MiB, starting at 1 MiB
	mbr[510], mbr[511] = 0x55, 0xaa
	put := func(sector []byte) {
		device, err := os.OpenFile(h.device, os.O_WRONLY|os.O_SYNC, 0)
		assert.NilError(h.t, err)
		defer device.Close()
		_, err = device.Write(sector)
		assert.NilError(h.t, err)
	}
	put(mbr)
	out, err := h.try(install + "--confirm-device " + h.device)
	assert.ErrorContains(h.t, err, "exit status 1", out)
	assert.Assert(h.t, is.Contains(out, "got "+h.device+" with dos"))
	put(make([]byte, len(mbr)))
}

func TestInstallForPackages(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	command(t, unpacked(t)+"/install.sh", "--root", root, "--base-path", "/srv/btrfs", "--engine", "kernel")
	for _, file := range []string{"usr/local/bin/btrfs-nfs-agent", "etc/systemd/system/btrfs-nfs-agent.service", "etc/btrfs-nfs-agent/agent.env"} {
		_, err := os.Stat(filepath.Join(root, file))
		assert.NilError(t, err)
	}
	dropIn, err := os.ReadFile(filepath.Join(root, "etc/systemd/system/btrfs-nfs-agent.service.d/10-host.conf"))
	assert.NilError(t, err)
	assert.Assert(t, is.Contains(string(dropIn), `RequiresMountsFor="/srv/btrfs"`))
	// With a private mount namespace of the agent, a restart would remove the exports.
	_, err = os.Stat(filepath.Join(root, "etc/systemd/system/btrfs-nfs-agent.service.d/20-exportfs.conf"))
	assert.Assert(t, os.IsNotExist(err))
}

// The exposure that docs/installation.md states is not exceeded: systemd.exec(5), as systemd 252
// counts it, times ten.
func TestUnitIsHardened(t *testing.T) {
	packaging := "../../agent/packaging/"
	command(t, "systemd-analyze", "security", "--offline=yes", "--threshold=50", packaging+"btrfs-nfs-agent.service")
	unit, err := os.ReadFile(packaging + "btrfs-nfs-agent.service")
	assert.NilError(t, err)
	more, err := os.ReadFile(packaging + "exportfs.conf")
	assert.NilError(t, err)
	both := filepath.Join(t.TempDir(), "btrfs-nfs-agent.service")
	assert.NilError(t, os.WriteFile(both, append(unit, more...), 0o644))
	command(t, "systemd-analyze", "security", "--offline=yes", "--threshold=44", both)
	// Settings that create a mount namespace are only set without a kernel engine.
	for _, setting := range []string{"ProtectSystem=", "ProtectHome=", "PrivateTmp=", "PrivateDevices=", "ReadWritePaths=", "ProtectKernelModules=", "ProtectKernelLogs=", "ProtectControlGroups=", "ProtectKernelTunables=", "ProtectProc=", "PrivateMounts="} {
		assert.Check(t, !strings.Contains("\n"+string(unit), "\n"+setting), setting)
	}
}

// unpacked returns the agent's tarball from `make tarball`.
func unpacked(t *testing.T) string {
	t.Helper()
	return unpack(t, "BNC_TARBALL")
}
