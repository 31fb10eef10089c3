//go:build ha

package ha_test

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/guest"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/uml"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/ha"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/system"
)

const (
	alpha, beta = "alpha", "beta"
	nodes       = "nodes"

	// address is the floating address of docs/two-hosts.md.
	address = "10.77.0.100"
	// lease is the kernel's default, and as long as the grace period. The minimum, 10 s, is shorter
	// than the time that Pacemaker takes from the start of the server to that of the address on a busy
	// machine.
	lease = 90 * time.Second

	diskBytes = 1 << 30
	hostBytes = 1 << 30 // of memory

	stepTime = 10 * time.Minute // limit for steps that end sooner, on a busy machine
)

// number is the last part of a guest's addresses.
var number = map[string]int{alpha: 101, beta: 102, nodes: 103}

// pair is two storage hosts and the nodes.
type pair struct {
	t       *testing.T
	options options
	dir     string // notes and logs, which the guests see
	self    string // this program, which also runs in the guest of the nodes

	clients, replication *uml.Switch
	ports                map[string][2]*uml.Port

	images map[string]*os.File // of the hosts' disks

	mu     sync.Mutex
	guests map[string]*uml.Guest
	fences sync.WaitGroup // the fence device, while it runs

	program *guest.Cmd
	finish  io.Closer
	ended   chan error
}

type options struct {
	engine    string
	hostScope bool // use the host's name as the scope of the server
	database  bool // run PostgreSQL on a node, if it is installed
	pacemaker bool // Pacemaker starts and stops the service instead of the test
}

//go:embed storage.sh
var storageScript []byte

// newPair boots the hosts, creates the pool, and starts the service on alpha: see
// docs/two-hosts.md.
func newPair(t *testing.T, o options) *pair {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("booting a guest takes root")
	}
	p := &pair{
		t: t, options: o, clients: uml.NewSwitch(), replication: uml.NewSwitch(),
		images: map[string]*os.File{}, ports: map[string][2]*uml.Port{}, guests: map[string]*uml.Guest{},
	}
	var err error
	p.self, err = os.Executable()
	assert.NilError(t, err)
	p.dir, err = os.MkdirTemp("", "ha-")
	assert.NilError(t, err)
	t.Cleanup(p.close)
	p.write("storage.sh", string(storageScript))
	p.write("btrfs-nfs-ha.conf", fenced(t, "ini"))
	resource := fenced(t, "drbd")
	if !o.pacemaker {
		resource = strings.ReplaceAll(resource, "/usr/lib/drbd/crm-fence-peer.sh", "/bin/bash "+p.dir+"/storage.sh fence-peer")
	}
	p.write("btrfs.res", resource)
	for _, host := range []string{alpha, beta} {
		p.images[host] = memoryDisk(t, host)
		p.ports[host] = [2]*uml.Port{p.clients.Port(), p.replication.Port()}
		p.boot(host)
	}
	p.fences.Go(p.fenceDevice)
	p.makePool()
	if o.pacemaker {
		p.configureCluster()
	} else {
		p.promote(alpha)
	}
	return p
}

// memoryDisk returns a file without a name, in memory. It ends with this process, however that
// ends.
func memoryDisk(t *testing.T, name string) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	assert.NilError(t, err)
	image := os.NewFile(uintptr(fd), name)
	assert.NilError(t, image.Truncate(diskBytes))
	return image
}

// visible returns the paths of this machine that the guests use.
func (p *pair) visible() []string { return []string{p.dir, os.Getenv("BNC_BIN"), p.self} }

func (p *pair) write(name, content string) {
	p.t.Helper()
	assert.NilError(p.t, os.WriteFile(filepath.Join(p.dir, name), []byte(content), 0o755))
}

func (p *pair) close() {
	p.fences.Wait() // the test's context has ended
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, g := range p.guests {
		if p.t.Failed() {
			p.t.Logf("console of %s:\n%s", name, g.ConsoleTail(30))
			if p.options.pacemaker && name != nodes {
				said, _ := g.Command("timeout", "30", "sh", "-c", "crm_mon -1; tail -n 40 /var/log/pacemaker/pacemaker.log").CombinedOutput()
				p.t.Logf("cluster on %s:\n%s", name, said)
			}
		}
		assert.Check(p.t, g.PowerCut())
	}
	assert.Check(p.t, p.clients.Close())
	assert.Check(p.t, p.replication.Close())
	for _, image := range p.images {
		assert.Check(p.t, image.Close())
	}
	if p.t.Failed() {
		p.t.Logf("notes and logs are kept in %s", p.dir)
		return
	}
	assert.Check(p.t, os.RemoveAll(p.dir))
}

// boot boots a storage host with its disk and without services.
func (p *pair) boot(host string) {
	p.t.Helper()
	_ = os.Remove(filepath.Join(p.dir, "fence-"+host+".done")) // there may be none
	p.start(uml.Config{
		Name: host, Memory: hostBytes, Visible: p.visible(),
		Disks:   []string{fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), p.images[host].Fd())},
		Console: filepath.Join(p.dir, host+".console"),
		Networks: []uml.Network{
			p.network(host, 0, fmt.Sprintf("10.77.0.%d/24", number[host])),
			p.network(host, 1, fmt.Sprintf("10.78.0.%d/24", number[host]-100)),
		},
	})
	scope := "pool"
	if p.options.hostScope {
		scope = ""
	}
	p.run(host, fmt.Sprintf(`cat > /run/ha.env <<-'EOF'
		HA_DIR=%s HA_BIN=%s HA_ENGINE=%s HA_SCOPE=%s HA_ADDRESS=%s
	EOF
	bash %[1]s/storage.sh boot`, p.dir, os.Getenv("BNC_BIN"), p.options.engine, scope, address))
}

func (p *pair) network(guest string, i int, addresses ...string) uml.Network {
	return uml.Network{Port: p.ports[guest][i], MAC: fmt.Sprintf("02:78:00:00:%02x:%02x", i, number[guest]), Addresses: addresses}
}

func (p *pair) start(c uml.Config) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), stepTime)
	defer cancel()
	g, err := uml.Boot(ctx, c)
	assert.NilError(p.t, err)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.guests[c.Name] = g
}

func (p *pair) guest(name string) *uml.Guest {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.guests[name]
}

// cut cuts the power of a guest. Data that is only in its memory is lost.
func (p *pair) cut(name string) {
	p.t.Helper()
	assert.NilError(p.t, p.guest(name).PowerCut())
}

// fenceDevice cuts the power of hosts, on request, until the test ends.
func (p *pair) fenceDevice() {
	for p.t.Context().Err() == nil {
		for _, host := range []string{alpha, beta} {
			request := filepath.Join(p.dir, "fence-"+host+".request")
			if os.Remove(request) != nil {
				continue // there is no request
			}
			err := errors.Join(p.guest(host).PowerCut(), os.WriteFile(strings.Replace(request, ".request", ".done", 1), nil, 0o600))
			if err != nil {
				p.t.Errorf("fence %s: %v", host, err)
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// fenced reports whether the fence device has cut the power of a host since it booted.
func (p *pair) fenced(host string) bool {
	_, err := os.Stat(filepath.Join(p.dir, "fence-"+host+".done"))
	return err == nil
}

// awaitMirror returns when both disks have the same data again, which is possible only without a
// split brain.
func (p *pair) awaitMirror() {
	p.t.Helper()
	p.awaitState(alpha, "drbdadm dstate btrfs", "UpToDate/UpToDate")
}

// awaitState returns when a command prints the given state of DRBD.
func (p *pair) awaitState(host, command, state string) {
	p.t.Helper()
	p.await(state, func() bool { return p.run(host, command) == state })
}

// disk replaces a host's disk with a target of device-mapper.
func (p *pair) disk(host, target string) {
	p.t.Helper()
	p.run(host, "bash "+p.dir+"/storage.sh disk '"+target+"'")
}

// run runs a script in a guest, and returns its output.
func (p *pair) run(name, script string) string {
	p.t.Helper()
	out, err := p.guest(name).Command("timeout", fmt.Sprintf("%.0f", stepTime.Seconds()), "bash", "-ec", script).Output()
	assert.NilError(p.t, err, "%s: %s\n%s", name, script, out)
	return strings.TrimSpace(string(out))
}

// makePool creates the mirrored disk and the pool on it, with the commands of the document.
func (p *pair) makePool() {
	p.t.Helper()
	for _, host := range []string{alpha, beta} {
		p.documented(host, "drbdadm create-md")
	}
	p.awaitState(alpha, "drbdadm cstate btrfs", "Connected")
	p.documented(alpha, "drbdadm new-current-uuid")
	env := "AGENT_BASE_PATH=/srv/btrfs/volumes\nAGENT_TENANTS=" + system.Tenant + ":" + system.Token + "\nAGENT_NFS_EXPORTER=" + p.options.engine +
		"\nAGENT_NFS_REQUIRE_NFSDCLD=true\nLOG_LEVEL=debug\n"
	p.write("agent.env", env)
	id := p.run(alpha, "set -a; . /run/ha.env; . $HA_DIR/agent.env; $HA_BIN/btrfs-nfs-agent init --env-file /dev/null")
	p.write("agent.env", env+"AGENT_POOL_ID="+id+"\n")
	p.documented(alpha, "mkdir -p /srv/btrfs/nfsdcld")
}

// documented runs the block of commands in docs/two-hosts.md with this beginning.
func (p *pair) documented(host, begin string) {
	p.t.Helper()
	p.run(host, begin+fenced(p.t, "\n"+begin))
}

// The order of the group, and the order in which a planned move stops it. The server stops while
// its address still exists, so that no client repeats a completed request. With the kernel engine,
// the agent starts the server.
var (
	starts = []string{"drbd", "pool", "nfsdcld", "btrfs-nfs-agent", "nfs-server", "address"}
	stops  = map[string][]string{
		"exportfs": {"nfs-server", "address", "btrfs-nfs-agent", "nfsdcld", "pool", "drbd"},
		"kernel":   {"btrfs-nfs-agent", "nfs-server", "address", "nfsdcld", "pool", "drbd"},
	}
)

func (p *pair) promote(host string) { p.t.Helper(); p.steps(host, "start", starts) }
func (p *pair) demote(host string)  { p.t.Helper(); p.steps(host, "stop", stops[p.options.engine]) }

func (p *pair) steps(host, action string, names []string) {
	p.t.Helper()
	for _, name := range names {
		p.t.Log(p.run(host, "bash "+p.dir+"/storage.sh "+action+" "+name))
	}
}

// work makes the nodes write, and returns when they do.
func (p *pair) work() {
	p.t.Helper()
	p.ports[nodes] = [2]*uml.Port{p.clients.Port()}
	p.start(uml.Config{
		Name: nodes, Visible: p.visible(), Console: filepath.Join(p.dir, "nodes.console"), Networks: []uml.Network{p.network(nodes, 0)},
	})
	config, err := json.Marshal(ha.Config{
		Dir: p.dir, AgentURL: "http://" + address + ":" + system.AgentPort, Database: p.options.database,
	})
	assert.NilError(p.t, err)
	p.program = p.guest(nodes).Command(p.self)
	p.program.Env = append(uml.DefaultEnv(), ha.ConfigVariable+"="+string(config))
	input, finish := io.Pipe()
	output, write := io.Pipe()
	p.program.Stdin, p.program.Stdout, p.program.Stderr = input, write, write
	p.finish, p.ended = finish, make(chan error, 1)
	assert.NilError(p.t, p.program.Start())
	go func() {
		p.ended <- p.program.Wait()
		_ = write.Close() // never fails
	}()
	working := make(chan struct{})
	go func() {
		lines := bufio.NewScanner(output)
		lines.Buffer(nil, 16<<20) // after a longer line, the program could not write any more
		for lines.Scan() {
			if lines.Text() == ha.Working {
				close(working)
			}
			fmt.Println("    nodes:", lines.Text()) // not t.Log: the test may be over
		}
	}()
	select {
	case <-working:
	case err := <-p.ended:
		p.t.Fatalf("the program of the nodes ended: %v", err)
	case <-time.After(stepTime):
		p.t.Fatalf("the nodes do not write within %v", stepTime)
	}
	p.progress()
}

// progress returns when more records are acknowledged, and more rows committed.
func (p *pair) progress() {
	p.t.Helper()
	counts := []func(string) (int, error){ha.Acknowledged}
	if p.options.database {
		counts = append(counts, ha.Rows)
	}
	for _, count := range counts {
		before, err := count(p.dir)
		assert.NilError(p.t, err)
		p.await("progress", func() bool {
			now, err := count(p.dir)
			assert.NilError(p.t, err)
			return now > before+50 || p.lost()
		})
	}
}

// await polls in the test's goroutine, so that done may fail the test at once. poll.WaitOn would
// wait for its result until the end of stepTime.
func (p *pair) await(what string, done func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(stepTime); !done(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("waited %v for %s", stepTime, what)
		}
	}
}

// events returns those of a kind, until the writer released its lock.
func (p *pair) events(kind string) []string {
	p.t.Helper()
	all, err := ha.Events(p.dir)
	assert.NilError(p.t, err)
	var found []string
	for _, e := range all {
		if e.Kind == ha.Released {
			break
		}
		if e.Kind == kind {
			found = append(found, e.Detail)
		}
	}
	return found
}

// lost reports whether a guarantee was broken, such as that of a lock: the contender has it, or the
// writer gets errors.
func (p *pair) lost() bool { return len(p.events(ha.Failed))+len(p.events(ha.Taken)) > 0 }

// verify ends the nodes' work and checks all guarantees.
func (p *pair) verify() {
	p.t.Helper()
	assert.NilError(p.t, p.finish.Close())
	select {
	case err := <-p.ended:
		assert.NilError(p.t, err)
	case <-time.After(stepTime):
		p.t.Fatalf("the nodes do not end within %v", stepTime)
	}
	assert.DeepEqual(p.t, p.events(ha.Failed), []string(nil))
	assert.DeepEqual(p.t, p.events(ha.Taken), []string(nil))
	for _, pause := range p.events(ha.Pause) {
		took, err := time.ParseDuration(pause)
		assert.NilError(p.t, err)
		p.t.Logf("%s: a pause of %.2f lease times", p.options.engine, took.Seconds()/lease.Seconds())
	}
}

// fenced returns the text after the beginning of a block in docs/two-hosts.md, such as the file of
// a language.
func fenced(t *testing.T, begin string) string {
	t.Helper()
	content, err := os.ReadFile("../../docs/two-hosts.md")
	assert.NilError(t, err)
	_, after, found := strings.Cut(string(content), "```"+begin)
	assert.Assert(t, found, "no block begins with %q", begin)
	block, _, _ := strings.Cut(after, "```\n")
	return block
}
