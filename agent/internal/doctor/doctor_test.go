package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/pool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

// imagined is a host made of files, with a real kernel below it.
type imagined struct {
	Host
	t    *testing.T
	root string
}

func imagine(t *testing.T) *imagined {
	t.Helper()
	root := t.TempDir()
	h := &imagined{t: t, root: root, Host: Host{
		Proc: root + "/proc", Sys: root + "/sys", Etc: root + "/etc", Modules: root + "/modules", EnvironmentFile: root + "/etc/agent.env", Release: "6.12.1-amd64",
		Run:               func(context.Context, string, ...string) (string, error) { return "", exec.ErrNotFound },
		ClockSynchronised: func() (bool, error) { return true, nil },
		CanSignHandles:    func() bool { return false },
		SignsHandles:      func() bool { return false },
		NFSScope:          func() (string, error) { return "", nfs.ErrUnsupported },
	}}
	h.write("proc/filesystems", "nodev\tproc\n\tbtrfs\nnodev\tnfsd\n")
	h.write("proc/fs/nfsd/threads", "16\n")
	h.write("proc/fs/nfsd/versions", "-2 -3 +4 -4.0 +4.1 +4.2\n")
	network, err := os.Readlink("/proc/self/ns/net")
	assert.NilError(t, err)
	assert.NilError(t, os.MkdirAll(root+"/proc/self/ns", 0o755))
	assert.NilError(t, os.Symlink(network, root+"/proc/self/ns/net"))
	return h
}

func (h *imagined) write(name, content string) {
	h.t.Helper()
	path := filepath.Join(h.root, name)
	assert.NilError(h.t, os.MkdirAll(filepath.Dir(path), 0o755))
	assert.NilError(h.t, os.WriteFile(path, []byte(content), 0o600))
}

// mountd makes a process that has the export caches' channels open.
func (h *imagined) mountd(name string) {
	h.t.Helper()
	network, err := os.Readlink("/proc/self/ns/net")
	assert.NilError(h.t, err)
	h.write("proc/4711/comm", name+"\n")
	for link, target := range map[string]string{"ns/net": network, "fd/7": "/proc/4711/net/rpc/nfsd.export/channel"} {
		path := filepath.Join(h.root, "proc/4711", link)
		assert.NilError(h.t, os.MkdirAll(filepath.Dir(path), 0o755))
		assert.NilError(h.t, os.Symlink(target, path))
	}
}

func settings(base string) config.Config {
	return config.Config{BasePath: base, ListenAddr: "127.0.0.1:0", QuotaMode: "auto", NFS: config.NFS{Exporter: "auto"}}
}

func say(findings []Finding) string {
	var b strings.Builder
	for _, f := range findings {
		b.WriteString(string(f.Status) + ": " + f.Detail + "\n" + f.Do + "\n")
	}
	return b.String()
}

func TestKernel(t *testing.T) {
	h, c := imagine(t), settings("")
	assert.Assert(t, is.Contains(say(checkKernel(t.Context(), h.Host, c)), "ok: btrfs and the NFS server are available"))
	h.Release = "5.4.0-42"
	assert.Assert(t, is.Contains(say(checkKernel(t.Context(), h.Host, c)), "problem: kernel 5.4.0-42 is too old"))
	h.Release, c.QuotaMode = "6.1.0-9", "simple"
	assert.Assert(t, is.Contains(say(checkKernel(t.Context(), h.Host, c)), "no simple quotas"))
	h.Release = "6.12.1"
	h.write("proc/filesystems", "\tbtrfs\n")
	assert.Assert(t, is.Contains(say(checkKernel(t.Context(), h.Host, c)), "problem: the kernel has no NFS server"))
	h.write("modules/6.12.1/modules.dep", "kernel/fs/nfsd/nfsd.ko.xz: kernel/fs/lockd.ko\n")
	assert.Assert(t, !strings.Contains(say(checkKernel(t.Context(), h.Host, c)), "problem"))
	h.write("proc/filesystems", "nodev\tproc\n")
	assert.Assert(t, is.Contains(say(checkKernel(t.Context(), h.Host, c)), "problem: the kernel has no btrfs"))
	assert.Assert(t, !strings.Contains(say(checkKernel(t.Context(), h.Host, c)), "are available"))
}

func TestServerAndUpcalls(t *testing.T) {
	h, c := imagine(t), settings("")
	assert.Assert(t, is.Contains(say(checkServer(t.Context(), h.Host, c)), "ok: 16 threads, NFS 4.1, 4.2\n"))
	assert.Assert(t, is.Contains(say(checkUpcalls(t.Context(), h.Host, c)), "ok: no process"))
	for versions, offered := range map[string]string{"+3 +4 -4.0 +4.1 +4.2\n": "NFS 3, 4.1, 4.2:", "-3 +4 +4.1 +4.2\n": "NFS 4.0, 4.1, 4.2:"} {
		h.write("proc/fs/nfsd/versions", versions)
		assert.Assert(t, is.Contains(say(checkServer(t.Context(), h.Host, c)), "warning: 16 threads, "+offered))
	}
	h.write("proc/fs/nfsd/versions", "+3 +4 +4.1 -4.2")
	assert.Assert(t, is.Contains(say(checkServer(t.Context(), h.Host, c)), "problem: does not offer NFSv4.2"))
	c.NFS.MaxVersion = "4.1"
	assert.Assert(t, is.Contains(say(checkServer(t.Context(), h.Host, c)), "warning: 16 threads, NFS 3, 4.0, 4.1:"))
	h.write("proc/fs/nfsd/versions", "-3 +4 -4.0 +4.1 -4.2")
	assert.Assert(t, is.Contains(say(checkServer(t.Context(), h.Host, c)), "ok: 16 threads, NFS 4.1\n"))
	h.write("proc/fs/nfsd/versions", "-3 +4 -4.0 +4.1 +4.2")
	assert.Assert(t, is.Contains(say(checkServer(t.Context(), h.Host, c)), "problem: offers NFSv4.2, and AGENT_NFS_MAX_VERSION is 4.1"))
	h.write("proc/fs/nfsd/threads", "0\n")
	for engine, says := range map[string]string{"auto": "warning: does not run", "exportfs": "problem: does not run", "kernel": "ok: does not run: the agent"} {
		c.NFS.Exporter = engine
		assert.Assert(t, is.Contains(say(checkServer(t.Context(), h.Host, c)), says))
	}
	c.NFS.Exporter = "exportfs"
	assert.Assert(t, is.Contains(say(checkUpcalls(t.Context(), h.Host, c)), "apt install nfs-kernel-server"))

	h.mountd("rpc.mountd")
	c.NFS.Exporter = "kernel"
	assert.Assert(t, is.Contains(say(checkUpcalls(t.Context(), h.Host, c)), "problem: rpc.mountd (process 4711) answers"))
	c.NFS.Exporter = "auto"
	assert.Assert(t, is.Contains(say(checkUpcalls(t.Context(), h.Host, c)), "but exportfs is not installed"))
	h.Run = func(context.Context, string, ...string) (string, error) { return "", nil }
	assert.Assert(t, is.Contains(say(checkUpcalls(t.Context(), h.Host, c)), "ok: rpc.mountd"))
	h.write("proc/4711/comm", "btrfs-nfs-agent\n")
	assert.Assert(t, is.Contains(say(checkUpcalls(t.Context(), h.Host, c)), "ok: the agent, process 4711"))
}

func TestBtrfsProgs(t *testing.T) {
	h, c := imagine(t), settings("")
	assert.Assert(t, is.Contains(say(checkVersion(t.Context(), h.Host, c)), "warning: btrfs-progs is not installed"))
	h.Run = func(context.Context, string, ...string) (string, error) { return "btrfs-progs v6.2\n+more\n", nil }
	assert.Assert(t, is.Contains(say(checkVersion(t.Context(), h.Host, c)), "ok: btrfs-progs v6.2"))
}

func TestGroups(t *testing.T) {
	h, c := imagine(t), settings("")
	assert.Assert(t, is.Contains(say(checkGroups(t.Context(), h.Host, c)), "ok"))
	h.write("etc/nfs.conf", "[nfsd]\nmanage-gids=n\n[mountd]\n# manage-gids=n\n manage-gids = Y\n")
	assert.Assert(t, is.Contains(say(checkGroups(t.Context(), h.Host, c)), "problem: manage-gids is on"))
	h.write("etc/nfs.conf.d/local.conf", "[mountd]\nmanage-gids=n\n")
	assert.Assert(t, is.Contains(say(checkGroups(t.Context(), h.Host, c)), "ok"))
}

func TestLocalIO(t *testing.T) {
	h, c := imagine(t), settings("")
	assert.Assert(t, is.Contains(say(checkLocalIO(t.Context(), h.Host, c)), "ok: not supported by the kernel"))
	h.write("modules/6.12.1-amd64/modules.dep", "kernel/fs/nfs_common/nfs_localio.ko.xz: kernel/net/sunrpc/sunrpc.ko.xz\n")
	assert.Assert(t, is.Contains(say(checkLocalIO(t.Context(), h.Host, c)), "ok: no node runs on this host"))
	h.write("sys/module/nfs/parameters/localio_enabled", "Y\n")
	assert.Assert(t, is.Contains(say(checkLocalIO(t.Context(), h.Host, c)), "warning: on: a node on this host"))
	assert.Assert(t, is.Contains(say(checkLocalIO(t.Context(), h.Host, c)), "options nfs localio_enabled=N"))
	h.write("sys/module/nfs/parameters/localio_enabled", "N\n")
	assert.Assert(t, is.Contains(say(checkLocalIO(t.Context(), h.Host, c)), "ok: off"))
}

func TestHandles(t *testing.T) {
	for _, at := range []struct {
		wanted, possible, signing bool
		threads, says             string
	}{
		{false, false, false, "16\n", "ok: not signed, because this kernel is too old"},
		{false, true, false, "16\n", "ok: not signed although this kernel supports it (AGENT_NFS_SIGN_HANDLES)"},
		{true, false, false, "0\n", "problem: AGENT_NFS_SIGN_HANDLES is on, and this kernel cannot"},
		{true, true, false, "16\n", "problem: AGENT_NFS_SIGN_HANDLES is on, and the running NFS server was started without the key"},
		{true, true, false, "0\n", "ok: signed"},
		{true, true, true, "16\n", "ok: signed"},
		{true, true, false, "", "unknown: the NFS server is not loaded"},
	} {
		h, c := imagine(t), settings("")
		h.write("proc/fs/nfsd/threads", at.threads)
		h.CanSignHandles = func() bool { return at.possible }
		h.SignsHandles = func() bool { return at.signing }
		c.NFS.SignHandles = at.wanted
		assert.Assert(t, is.Contains(say(checkHandles(t.Context(), h.Host, c)), at.says))
	}
}

func TestScope(t *testing.T) {
	h := imagine(t)
	c := settings(testpool.New(t, testpool.Options{}).Dir)
	assert.Assert(t, is.Contains(say(checkScope(t.Context(), h.Host, c)), "unknown: reading the NFS server"))
	h.NFSScope = func() (string, error) { return "", nil }
	assert.Assert(t, is.Contains(say(checkScope(t.Context(), h.Host, c)), "unknown: the NFS server does not run"))

	h.write("sys/fs/btrfs/2/label", "\n")
	for scope, says := range map[string]string{
		"btrfs-nfs-1": "ok: btrfs-nfs-1\n",
		"alpha":       "warning: alpha, the name of this host",
		"btrfs-nfs-2": "ok: btrfs-nfs-2, the scope of another pool on this host: btrfs-nfs-1 is the scope of this pool",
		"btrfs-nfs-3": "warning: btrfs-nfs-3, the scope of a filesystem that is not mounted on this host: clients lose their locks when the pool moves to another host",
		"beta":        "unknown: beta, set by an administrator, or an earlier name of this host",
	} {
		assert.Assert(t, is.Contains(say([]Finding{h.judgeScope(scope, "btrfs-nfs-1", "alpha", "exportfs")}), says))
	}
	assert.Assert(t, is.Contains(h.judgeScope("alpha", "btrfs-nfs-1", "alpha", "kernel").Do, "btrfs-nfs-agent nfs stop"))
}

func TestOtherExports(t *testing.T) {
	h, c := imagine(t), settings("/srv/btrfs/volumes")
	c.NFS.ExportsFile = h.Etc + "/exports.d/btrfs-nfs-csi.exports"
	h.write("etc/exports.d/btrfs-nfs-csi.exports", "/srv/btrfs/volumes/a/v/data 10.0.0.1(rw)\n")
	h.write("etc/exports", "# /srv/btrfs *(rw)\n/home *(rw)\n")
	assert.Assert(t, is.Contains(say(checkOtherExports(t.Context(), h.Host, c)), "ok: 1, none"))
	h.write("etc/exports", "\"/srv/btrfs\" *(rw)\n")
	h.write("etc/exports.d/x.exports", "/srv/btrfs/volumes/a *(rw)\n")
	text := say(checkOtherExports(t.Context(), h.Host, c))
	assert.Assert(t, is.Contains(text, "warning: "+h.Etc+"/exports exports /srv/btrfs, which contains the volumes"))
	assert.Assert(t, is.Contains(text, "problem: "+h.Etc+"/exports.d/x.exports exports /srv/btrfs/volumes/a"))
}

// An export with fsid=0 takes the root of NFSv4 away from the volumes. It may be in a file, or
// only in the table of nfs-utils.
func TestOtherExportsWithRoot(t *testing.T) {
	h, c := imagine(t), settings("/srv/my pool")
	for line, root := range map[string]bool{
		"/srv/media *(rw,fsid=0)\n": true, "/srv/media 10.0.0.1(ro) *(fsid=root,ro)\n": true, "/srv/media -ro,fsid=0 a b\n": true, "/srv/media -fsid=0 a\n": true,
		"/srv/media \\\n  *(fsid=0)\n": true, "\"/srv/media\"\t*(fsid=0)\n": true, `/srv/m\145dia *(fsid=0)`: true,
		"/srv/media *(rw,fsid=01234567-89ab-cdef-0123-456789abcdef)\n": false, "/srv/media *(fsid=10)\n": false, "/srv/media *(rw) # (fsid=0)\n": false, "#/srv/media *(fsid=0)\n": false,
	} {
		h.write("etc/exports", line)
		for engine, says := range map[string]string{"exportfs": "problem: ", "auto": "problem: ", "kernel": "warning: "} {
			c.NFS.Exporter = engine
			found := say(checkOtherExports(t.Context(), h.Host, c))
			assert.Check(t, strings.Contains(found, says+h.Etc+"/exports exports /srv/media with fsid=0") == root, "%s %q: %s", engine, line, found)
		}
	}
	h.write("etc/exports", "\"/srv/my pool/a\" *(rw)\n")
	assert.Check(t, is.Contains(say(checkOtherExports(t.Context(), h.Host, c)), "exports /srv/my pool/a, which belongs to the agent"))
	h.write("etc/exports", `/srv/my\040pool/a *(rw)`)
	assert.Check(t, is.Contains(say(checkOtherExports(t.Context(), h.Host, c)), "exports /srv/my pool/a, which belongs to the agent"))

	h.write("etc/exports", "/srv/filed *(fsid=0)\n")
	h.Run = func(_ context.Context, program string, args ...string) (string, error) {
		assert.Equal(t, program+" "+strings.Join(args, " "), "exportfs -s")
		return "/srv/filed  *(sync,fsid=0,sec=sys)\n/srv/hand  a(sync,fsid=0,sec=sys)\n/srv/hand  b(sync,fsid=0,sec=sys)\n/srv/x  *(fsid=3)\n", nil
	}
	c.NFS.Exporter = "exportfs"
	found := say(checkOtherExports(t.Context(), h.Host, c))
	assert.Check(t, is.Equal(strings.Count(found, "/srv/filed with fsid=0"), 1))
	assert.Check(t, is.Equal(strings.Count(found, "exportfs exports /srv/hand with fsid=0"), 1))
	assert.Check(t, !strings.Contains(found, "/srv/x"))
}

func TestFirewall(t *testing.T) {
	h, c := imagine(t), settings("")
	c.ListenAddr = ":8080"
	assert.Assert(t, is.Contains(say(checkFirewall(t.Context(), h.Host, c)), "unknown: nft is not installed"))
	const chain = `{"chain":{"family":"inet","table":"filter","name":"in","hook":"input","policy":"%"}}`
	accept := func(right string) string {
		return `{"rule":{"chain":"in","expr":[{"match":{"op":"==","left":{"payload":{"protocol":"tcp","field":"dport"}},"right":` + right + `}},{"accept":null}]}}`
	}
	for rules, says := range map[string]string{
		strings.Replace(chain, "%", "accept", 1): "ok: incoming packets",
		strings.Replace(chain, "%", "accept", 1) + `,{"rule":{"chain":"in","expr":[{"counter":null},{"drop":null}]}}`: "port 2049, 8080",
		strings.Replace(chain, "%", "drop", 1):                                          "warning: drops incoming packets, and no rule accepts TCP port 2049, 8080",
		strings.Replace(chain, "%", "drop", 1) + "," + accept("2049"):                   "TCP port 8080",
		strings.Replace(chain, "%", "drop", 1) + "," + accept(`{"set":[22,2049,8080]}`): "ok: accepts 2049 and 8080",
	} {
		h.Run = func(context.Context, string, ...string) (string, error) { return `{"nftables":[` + rules + `]}`, nil }
		assert.Assert(t, is.Contains(say(checkFirewall(t.Context(), h.Host, c)), says), rules)
	}
}

func TestSystem(t *testing.T) {
	h, c := imagine(t), settings("")
	assert.Assert(t, is.Contains(say(checkClock(t.Context(), h.Host, c)), "ok"))
	h.ClockSynchronised = func() (bool, error) { return false, nil }
	assert.Assert(t, is.Contains(say(checkClock(t.Context(), h.Host, c)), "warning: the clock"))
	_, err := clockSynchronised()
	assert.NilError(t, err)

	h.write("etc/agent.env", "AGENT_TENANTS=a:b\n")
	assert.Assert(t, !strings.Contains(say(checkPermissions(t.Context(), h.Host, c)), "problem"))
	assert.NilError(t, os.Chmod(h.EnvironmentFile, 0o644))
	assert.Assert(t, is.Contains(say(checkPermissions(t.Context(), h.Host, c)), "problem: "+h.EnvironmentFile+" holds the tokens and has mode 0644"))
	c.BasePath = t.TempDir()
	assert.NilError(t, os.Chmod(c.BasePath, 0o777))
	assert.Assert(t, is.Contains(say(checkPermissions(t.Context(), h.Host, c)), "others can write"))
	h.UID = 1000
	assert.Assert(t, is.Contains(say(checkPermissions(t.Context(), h.Host, c)), "not run as root"))
}

func TestPool(t *testing.T) {
	pool := testpool.New(t, testpool.Options{MountOptions: "noatime"})
	h, c := imagine(t), settings(pool.Dir)
	h.Proc = "/proc"
	assert.Assert(t, is.Contains(say(checkBasePath(t.Context(), h.Host, c)), "ok: "+pool.Dir+" is on btrfs"))
	assert.Assert(t, is.Contains(say(checkMount(t.Context(), h.Host, c)), "not in /etc/fstab"))
	h.write("etc/fstab", "/dev/sdx "+pool.Dir+" btrfs noatime 0 0\n")
	assert.Assert(t, is.Contains(say(checkMount(t.Context(), h.Host, c)), "ok: "))
	assert.Assert(t, is.Contains(say(onPool(checkQuota)(t.Context(), h.Host, c)), "ok: quotas are off: the agent turns"))
	assert.Assert(t, is.Contains(say(onPool(checkSpace)(t.Context(), h.Host, c)), "are free"))
	assert.Assert(t, is.Contains(say(onPool(checkDevices)(t.Context(), h.Host, c)), "ok: 1, without errors"))

	out, err := exec.Command("mount", "-o", "remount,ro", pool.Dir).CombinedOutput()
	assert.NilError(t, err, "%s", out)
	assert.Assert(t, is.Contains(say(checkBasePath(t.Context(), h.Host, c)), "problem: the filesystem is read-only"))
	out, err = exec.Command("mount", "-o", "remount,rw", pool.Dir).CombinedOutput()
	assert.NilError(t, err, "%s", out)

	for base, says := range map[string]string{"": "not set", t.TempDir() + "/none": "does not exist", "/proc": "not on btrfs"} {
		assert.Assert(t, is.Contains(say(checkBasePath(t.Context(), h.Host, settings(base))), says))
	}
}

// Not mounted, the wrong filesystem and a new pool are three problems, and each says what to do.
func TestPoolID(t *testing.T) {
	pool := testpool.New(t, testpool.Options{})
	h, c := imagine(t), settings(pool.Dir)
	look := func() string { return say(onPool(checkPool)(t.Context(), h.Host, c)) }
	says := func(parts ...string) {
		t.Helper()
		for _, part := range parts {
			assert.Check(t, is.Contains(look(), part))
		}
	}
	other := uuid.New()
	says("problem: not mounted, or a new pool: "+pool.Dir+" has no pool ID", "mount "+pool.Dir, "btrfs-nfs-agent init")
	c.PoolID = config.PoolID(other)
	says("problem: not mounted: "+pool.Dir+" has no pool ID, AGENT_POOL_ID is "+other.String(), "mount "+pool.Dir+")")
	assert.Assert(t, !strings.Contains(look(), "init"), look())
	c.PoolID = config.PoolID{}
	base := filepath.Join(pool.Dir, "base")
	assert.NilError(t, os.Mkdir(base, 0o755))
	c.BasePath = base
	h.write("etc/fstab", "/dev/sdx "+base+" btrfs noatime 0 0\n")
	says("problem: not mounted: /etc/fstab has "+base+", and nothing is mounted there", "mount "+base+" && systemctl restart btrfs-nfs-agent")
	assert.Assert(t, !strings.Contains(look(), "init"), look())

	c.BasePath = pool.Dir
	poolID, _, err := initPool(pool.Dir)
	assert.NilError(t, err)
	says("warning: pool "+poolID.String()+", and AGENT_POOL_ID is not set", "AGENT_POOL_ID="+poolID.String()+" in "+h.EnvironmentFile)
	c.PoolID = config.PoolID(poolID)
	says("ok: pool " + poolID.String())
	c.PoolID = config.PoolID(other)
	says("problem: wrong filesystem: "+pool.Dir+" has pool "+poolID.String()+", AGENT_POOL_ID is "+other.String(), "Mount the right filesystem", "AGENT_POOL_ID="+poolID.String())

	own := filepath.Join(pool.Dir, ".agent")
	assert.NilError(t, os.WriteFile(own+"/id", []byte("garbage"), 0o600))
	says("problem: ", own+"/id must hold a pool ID, got \"garbage\"")
	assert.NilError(t, os.Remove(own+"/id"))
	assert.NilError(t, os.WriteFile(own+"/key", make([]byte, 32), 0o600))
	c.PoolID = config.PoolID{}
	says("warning: the pool has no ID yet", "Start the agent")
	for _, base := range []string{"", pool.Dir + "/none", "/proc"} { // which the base path's own check is about
		c.BasePath = base
		says("unknown: no btrfs filesystem")
	}
}

func TestMissingDevice(t *testing.T) {
	pool := testpool.New(t, testpool.Options{Devices: 2, Mkfs: []string{"-d", "raid1", "-m", "raid1"}})
	pool.LoseDevice()
	h, c := imagine(t), settings(pool.Dir)
	h.Proc = "/proc"
	assert.Assert(t, is.Contains(say(onPool(checkDevices)(t.Context(), h.Host, c)), "problem: device 2 is missing\nConnect it, or replace it: btrfs replace start 2"))
	assert.Assert(t, is.Contains(say(checkMount(t.Context(), h.Host, c)), "mount option degraded"))
}

func TestJudgements(t *testing.T) {
	for _, c := range []struct {
		quota  btrfs.QuotaStatus
		wanted string
		want   Status
	}{
		{btrfs.QuotaStatus{}, "auto", OK}, {btrfs.QuotaStatus{}, "off", Warning},
		{btrfs.QuotaStatus{Enabled: true, Mode: btrfs.QuotaFull}, "auto", OK},
		{btrfs.QuotaStatus{Enabled: true, Mode: btrfs.QuotaFull}, "simple", Problem},
		{btrfs.QuotaStatus{Enabled: true, Mode: btrfs.QuotaSimple}, "full", Problem},
		{btrfs.QuotaStatus{Enabled: true, Mode: btrfs.QuotaFull}, "off", Problem},
		{btrfs.QuotaStatus{Enabled: true, Mode: btrfs.QuotaFull, Inconsistent: true}, "auto", Problem},
		{btrfs.QuotaStatus{Enabled: true, Mode: btrfs.QuotaFull, Inconsistent: true, Rescanning: true}, "auto", Warning},
	} {
		assert.Equal(t, judgeQuota(c.quota, c.wanted).Status, c.want, "%+v", c)
	}
	assert.Equal(t, judgeSpace(btrfs.Space{TotalBytes: 100 << 30, UsedBytes: 50 << 30, FreeBytes: 50 << 30, UnallocatedBytes: 1}).Status, OK)
	assert.Equal(t, judgeSpace(btrfs.Space{TotalBytes: 100 << 30, UsedBytes: 95 << 30, FreeBytes: 5 << 30, UnallocatedBytes: 1}).Status, Warning)
	assert.Equal(t, judgeSpace(btrfs.Space{TotalBytes: 100 << 30, UsedBytes: 50 << 30, FreeBytes: 50 << 30, Metadata: btrfs.Usage{TotalBytes: 100, UsedBytes: 95}}).Status, Warning)
	assert.Equal(t, judgeSpace(btrfs.Space{TotalBytes: 100 << 30, UsedBytes: 100 << 30, FreeBytes: 1 << 20}).Status, Problem)
	assert.Assert(t, is.Contains(say(judgeDevices([]btrfs.Device{{ID: 1, Path: "/dev/sda", Errors: btrfs.DeviceErrors{Corruption: 3}}})), "3 corruption"))
}

// Every finding that is not well says what to do; the report counts, and can be read by programs.
func TestRun(t *testing.T) {
	h := imagine(t)
	report := Run(t.Context(), h.Host, settings(""), nil)
	looked := map[string]bool{}
	for _, f := range report.Findings {
		looked[f.Check] = true
		assert.Check(t, (f.Status == OK || f.Status == Unknown) == (f.Do == ""), "%+v", f)
	}
	for _, check := range checks {
		assert.Check(t, looked[check.name], "nothing of %s", check.name)
	}
	assert.Assert(t, report.Problems >= 1)
	var text, encoded bytes.Buffer
	assert.NilError(t, report.WriteText(&text))
	assert.Assert(t, is.Contains(text.String(), "FAIL  base path"))
	assert.NilError(t, report.WriteJSON(&encoded))
	var back Report
	assert.NilError(t, json.Unmarshal(encoded.Bytes(), &back))
	assert.DeepEqual(t, back, report)
}

// A check that hangs does not hold up the others.
func TestHangingCheck(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	stuck := make(chan struct{})
	defer close(stuck)
	findings := within(ctx, check{"x", func(context.Context, Host, config.Config) []Finding { <-stuck; return nil }}, Host{}, config.Config{})
	assert.Assert(t, is.Contains(say(findings), "no answer"))
}

func initPool(basePath string) (uuid.UUID, bool, error) {
	return pool.Init(pool.Config{BasePath: basePath})
}
