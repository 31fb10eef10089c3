//go:build lab

package exports_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/system"
)

const mib = int64(1) << 20

// patience limits waits for steps that take a second on an idle machine.
const patience = 3 * time.Minute

// crowd is a storage host with a thousand exports. Pods on two nodes continuously write to some of
// them.
type crowd struct {
	*system.System
	pods []*pod
}

// pod writes files durably, one after another, and keeps a file open and locked.
type pod struct {
	*system.Attachment
	other   *system.Attachment // attachment of the same volume to the other node
	process *exec.Cmd
	stderr  *strings.Builder
}

// lease is also the time in which clients can reclaim their state. On a busy machine, a client can
// miss a short one and lose its locks. A long one costs nothing: the server waits at most for the
// last client that nfsdcld has recorded.
const lease = time.Minute

func engineEnv(name string) []string {
	return []string{
		"AGENT_TENANTS=" + system.Tenant + ":" + system.Token, "AGENT_METRICS_ADDR=", "AGENT_NFS_EXPORTER=" + name,
		"AGENT_NFS_SERVER_LEASE_TIME=" + lease.String(), "AGENT_NFS_SERVER_GRACE_TIME=" + lease.String(), "AGENT_NFS_SERVER_THREADS=8",
	}
}

func modeOf(engine string) lab.NFSMode {
	if engine == "kernel" {
		return lab.Agent
	}
	return lab.Mountd
}

// No restart of any component causes more than a pause for a pod: no error, no lost open file, no
// lost lock.
func TestRestartsWithAThousandExports(t *testing.T) {
	for _, engines := range [][2]string{{"kernel", "exportfs"}, {"exportfs", "kernel"}} {
		engine, other := engines[0], engines[1]
		t.Run(engine, func(t *testing.T) {
			c := newCrowd(t, engine, 1000)
			for _, restart := range []struct {
				name string
				do   func(*testing.T)
			}{
				{"the agent", c.restartAgent},
				{"the NFS server", func(t *testing.T) { c.restartServer(t, engine) }},
				{"the storage host", c.reboot},
				{"a change of engine to " + other, func(t *testing.T) { c.changeEngine(t, other) }},
			} {
				began := time.Now()
				restart.do(t)
				done := time.Now()
				c.goOn(t)
				t.Logf("%s: %v until it was done, all pods wrote again %v later", restart.name,
					done.Sub(began).Round(time.Millisecond), time.Since(done).Round(time.Millisecond))
				c.stillLocked(t)
			}
			c.finish(t)
		})
	}
}

func newCrowd(t *testing.T, engine string, exports int) *crowd {
	t.Helper()
	c := &crowd{System: system.New(t, system.Options{
		Lab: lab.Options{Nodes: 2, PoolSize: 64 << 30, NFS: modeOf(engine), Lease: lease, Grace: lease}, AgentEnv: engineEnv(engine),
	})}
	c.keepScope(t, engine)
	var all errgroup.Group
	all.SetLimit(16)
	for i := range exports {
		all.Go(func() error {
			name := fmt.Sprintf("crowd-%d", i)
			if _, err := c.API.CreateVolume(t.Context(), agentapi.VolumeCreate{Name: name, SizeBytes: mib}); err != nil {
				return err
			}
			_, err := c.API.Export(t.Context(), name, agentapi.ExportRequest{Client: c.Nodes[i%len(c.Nodes)].IP.String()})
			return err
		})
	}
	assert.NilError(t, all.Wait())
	for i := range 3 { // each keeps the guest's only processor busy
		c.startPod(t, i%len(c.Nodes), fmt.Sprintf("pod-%d", i))
	}
	c.goOn(t)
	c.stillLocked(t)
	return c
}

// keepScope gives the server that nfs-utils start the scope of the pool, like install.sh. A change
// of the engine keeps locks only if the scope stays the same.
func (c *crowd) keepScope(t *testing.T, engine string) {
	t.Helper()
	id, err := c.Lab.Storage.Run("findmnt", "-n", "-o", "UUID", "--target", c.Lab.Pool)
	assert.NilError(t, err)
	c.Lab.SetNFSScope("btrfs-nfs-" + id)
	if engine != "kernel" {
		assert.NilError(t, c.Lab.RestartNFSServer())
	}
}

const podScript = `exec 9> "$V/held"
flock -n 9
i=0
while [ ! -e "$V/stop" ]; do
	i=$((i+1))
	echo $i > "$V/count"
	sync "$V/count"
	echo $i >&9
done
`

func (c *crowd) startPod(t *testing.T, node int, name string) {
	t.Helper()
	volume := system.Create(t, c.System, name)
	p := &pod{
		Attachment: system.Attach(t, c.System, node, volume, system.AttachOptions{}),
		other:      system.Attach(t, c.System, 1-node, volume, system.AttachOptions{}),
		stderr:     &strings.Builder{},
	}
	p.process = c.Nodes[node].Command(context.WithoutCancel(t.Context()), "env", "V="+p.Target, "sh", "-ec", podScript)
	p.process.Stderr = p.stderr
	assert.NilError(t, p.process.Start())
	c.pods = append(c.pods, p)
}

// goOn waits until each pod has written again.
func (c *crowd) goOn(t *testing.T) {
	t.Helper()
	for _, p := range c.pods {
		before := count(t, p)
		poll.WaitOn(t, func(poll.LogT) poll.Result {
			if now := count(t, p); now != "" && now != before {
				return poll.Success()
			}
			return poll.Continue("%s: the count stays at %q; it said %q", p.Volume.GetVolumeId(), before, p.stderr)
		}, poll.WithTimeout(patience), poll.WithDelay(20*time.Millisecond))
	}
}

// count reads on the server, because a client may wait for its writes.
func count(t *testing.T, p *pod) string {
	t.Helper()
	out, err := p.Shell(`timeout 50 cat "$V/count" 2>&1 || true`)
	assert.NilError(t, err)
	return out
}

// tryLock ends with 9 if another client has the lock. It runs on the other node: the pod's node
// would answer without the server.
const tryLock = `exec 8>> "$V/held"; flock -n -E 9 8`

// stillLocked checks that a pod's lock excludes others.
func (c *crowd) stillLocked(t *testing.T) {
	t.Helper()
	for _, p := range c.pods {
		_, err := p.other.Shell(tryLock)
		assert.ErrorContains(t, err, "exit status 9", "%s lost its lock", p.Volume.GetVolumeId())
	}
}

// finish stops the pods, which must not have had an error.
func (c *crowd) finish(t *testing.T) {
	t.Helper()
	for _, p := range c.pods {
		system.Shell(t, p.Attachment, `touch "$V/stop"`)
		assert.NilError(t, p.process.Wait(), p.stderr.String())
		assert.Equal(t, p.stderr.String(), "")
		system.Shell(t, p.other, tryLock)
	}
}

func (c *crowd) restartAgent(t *testing.T) {
	t.Helper()
	assert.NilError(t, c.Agent.Stop())
	assert.NilError(t, c.Agent.Start())
	assert.NilError(t, c.Agent.Kill())
	assert.NilError(t, c.Agent.Start())
}

func (c *crowd) restartServer(t *testing.T, engine string) {
	t.Helper()
	if engine == "exportfs" {
		assert.NilError(t, c.Lab.RestartNFSServer())
		return
	}
	// The agent runs the server, so an administrator can only stop it.
	_, err := c.Lab.Storage.Run("rpc.nfsd", "0")
	assert.NilError(t, err)
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if threads, err := c.Lab.Storage.Run("cat", "/proc/fs/nfsd/threads"); err != nil || threads == "0" {
			return poll.Continue("the agent has not started the server again: %v", err)
		}
		return poll.Success()
	}, poll.WithTimeout(patience), poll.WithDelay(20*time.Millisecond))
}

func (c *crowd) reboot(t *testing.T) {
	t.Helper()
	assert.NilError(t, c.Lab.Storage.Reboot())
	_ = c.Agent.Kill() // the agent ended with the host; this resets its state in the test
	assert.NilError(t, c.Lab.StartNFSServer())
	assert.NilError(t, c.Agent.Start())
}

// changeEngine does what an administrator does in a maintenance window.
func (c *crowd) changeEngine(t *testing.T, engine string) {
	t.Helper()
	assert.NilError(t, c.Agent.Stop())
	if engine == "exportfs" { // the agent has started the server, which no unit of nfs-utils stops
		_, err := c.Lab.Storage.Run(filepath.Join(os.Getenv("BNC_BIN"), "btrfs-nfs-agent"), "nfs", "stop")
		assert.NilError(t, err)
		threads, err := c.Lab.Storage.Run("cat", "/proc/fs/nfsd/threads")
		assert.NilError(t, err)
		assert.Equal(t, threads, "0")
	}
	assert.NilError(t, c.Lab.StopNFSServer()) // its daemons
	assert.NilError(t, c.Lab.SetNFSMode(modeOf(engine)))
	agent, err := c.NewAgent("agent-"+engine, c.Lab.Pool, system.AgentPort, engineEnv(engine))
	assert.NilError(t, err)
	c.Agent = agent
	start := []func() error{c.Lab.StartNFSServer, c.Agent.Start}
	if engine == "exportfs" { // a server that starts without exports refuses its clients
		slices.Reverse(start)
	}
	for _, step := range start {
		assert.NilError(t, step())
	}
}

// Two hundred volumes are published to twenty nodes each, all at once. With exportfs they are
// published to five nodes each, because it rewrites all exports for each batch.
func TestStormOfPublishes(t *testing.T) {
	const volumes, returned = 200, 50
	for engine, nodes := range map[string]int{"kernel": 20, "exportfs": 5} {
		t.Run(engine, func(t *testing.T) {
			s := system.New(t, system.Options{Lab: lab.Options{PoolSize: 64 << 30, NFS: modeOf(engine)}, AgentEnv: engineEnv(engine)})
			name := func(i int) string { return fmt.Sprintf("storm-%d", i) }
			client := func(i int) string { return netip.AddrFrom4([4]byte{10, 99, 0, byte(i + 1)}).String() }
			var making errgroup.Group
			making.SetLimit(16)
			for v := range volumes {
				making.Go(func() error {
					_, err := s.API.CreateVolume(t.Context(), agentapi.VolumeCreate{Name: name(v), SizeBytes: mib})
					return err
				})
			}
			assert.NilError(t, making.Wait())

			began := time.Now()
			var storm errgroup.Group
			for v := range volumes {
				storm.Go(func() error {
					for n := range nodes {
						if _, err := s.API.Export(t.Context(), name(v), agentapi.ExportRequest{Client: client(n)}); err != nil {
							return err
						}
					}
					return nil
				})
			}
			assert.NilError(t, storm.Wait())
			t.Logf("%d exports by %d callers: %v", volumes*nodes, volumes, time.Since(began).Round(time.Millisecond))
			assert.Equal(t, exported(t, s, engine), volumes*nodes)

			began = time.Now()
			var calm errgroup.Group
			for v := range returned {
				calm.Go(func() error {
					for n := range nodes {
						if err := s.API.Unexport(t.Context(), name(v), agentapi.UnexportRequest{Client: client(n)}); err != nil {
							return err
						}
					}
					return s.API.DeleteVolume(t.Context(), name(v))
				})
			}
			assert.NilError(t, calm.Wait())
			t.Logf("%d exports taken back, and their volumes deleted: %v", returned*nodes, time.Since(began).Round(time.Millisecond))
			assert.Equal(t, exported(t, s, engine), (volumes-returned)*nodes)
		})
	}
}

// exported counts the NFS server's exports of volumes.
func exported(t *testing.T, s *system.System, engine string) int {
	t.Helper()
	file := "/proc/net/rpc/nfsd.export/content"
	if engine == "exportfs" {
		file = "/var/lib/nfs/etab"
	}
	text, err := s.Lab.Storage.Run("cat", file)
	assert.NilError(t, err)
	n := 0
	for line := range strings.Lines(text) {
		if strings.Contains(line, "/data\t") && !strings.HasPrefix(line, "#") {
			n++
		}
	}
	return n
}

// The agent revokes a manual export below the base path. It ignores exports of other paths.
func TestUnintendedExportIsRevoked(t *testing.T) {
	s := system.New(t, system.Options{Lab: lab.Options{Nodes: 1}, AgentEnv: engineEnv("exportfs")})
	_, err := s.API.CreateVolume(t.Context(), agentapi.VolumeCreate{Name: "v", SizeBytes: mib})
	assert.NilError(t, err)
	v, err := s.API.GetVolume(t.Context(), "v")
	assert.NilError(t, err)
	_, err = s.Lab.Storage.Run("exportfs", "-i", "-o", "rw,fsid=77,no_subtree_check", "*:/srv")
	assert.NilError(t, err)
	began := time.Now()
	_, err = s.Lab.Storage.Run("exportfs", "-i", "-o", "rw,no_subtree_check", "*:"+v.Path+"/data")
	assert.NilError(t, err)
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if n := exported(t, s, "exportfs"); n > 0 {
			return poll.Continue("%d exports", n)
		}
		return poll.Success()
	}, poll.WithTimeout(patience), poll.WithDelay(20*time.Millisecond))
	t.Logf("revoked after %v", time.Since(began).Round(time.Millisecond))
	table, err := s.Lab.Storage.Run("cat", "/var/lib/nfs/etab")
	assert.NilError(t, err)
	assert.Assert(t, strings.HasPrefix(table, "/srv\t"), table)
}

// A class can squash root in a pod.
func TestRootSquashOfAClass(t *testing.T) {
	s := system.New(t, system.Options{Lab: lab.Options{Nodes: 1}})
	parameters := s.ClassParameters()
	parameters["rootSquash"], parameters["mode"] = "true", "0777"
	answer, err := s.CSI.CreateVolume(t.Context(), &csi.CreateVolumeRequest{
		Name: "squashed", Parameters: parameters, CapacityRange: &csi.CapacityRange{RequiredBytes: 64 * mib},
		VolumeCapabilities: []*csi.VolumeCapability{system.Shared()},
	})
	assert.NilError(t, err)
	a := system.Attach(t, s, 0, answer.GetVolume(), system.AttachOptions{})
	assert.Equal(t, system.Shell(t, a, `id -u; touch "$V/file"; stat -c %u:%g "$V/file"`), "0\n65534:65534")
	b := system.Attach(t, s, 0, system.Create(t, s, "plain"), system.AttachOptions{})
	assert.Equal(t, system.Shell(t, b, `touch "$V/file"; stat -c %u "$V/file"`), "0")
}
