//go:build lab

package nfstest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/pool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
)

// nothingStaleAfterRepublish checks that data which a node wrote before it was fenced never reaches
// the volume afterwards, whatever is published later and to which node. It uses the references of a
// store, because the guarantee depends on their file system IDs.
//
// In each round, the first node has dirty data in one volume for each case. It is fenced from all
// of them, the second node writes to them, and they are published to the first node's address
// again. Then none of the first node's pending writes may succeed.
func nothingStaleAfterRepublish(t *testing.T, r *run) {
	assert.NilError(t, r.engine.Close())
	for _, round := range []struct {
		name  string
		cut   bool          // the first node has no network while it is fenced
		away  time.Duration // for this time after the second node has written; the lease is 10 s
		taken bool          // meanwhile the second node has the first one's address
	}{
		{name: "healthy network"},
		{name: "cut for less than the lease", cut: true},
		{name: "cut for longer than the lease", cut: true, away: 22 * time.Second},
		{name: "another node has had the address", cut: true, taken: true},
	} {
		t.Run(round.name, func(t *testing.T) {
			f := startFence(t, r, strings.ReplaceAll(round.name, " ", "-"))
			node, second := r.env.Nodes[0], r.env.Nodes[1]
			cases := staleCases()
			for _, c := range cases {
				c.begin(t, f, node)
			}
			if round.cut {
				assert.NilError(t, node.CutNetwork())
			}
			for _, c := range cases {
				c.dirty(t, node)
			}
			for _, c := range cases {
				if round.cut {
					assert.Assert(t, c.holds(oldText), "%s: the network is not cut: %s", c.name, c.read())
				}
				f.detach(t, c.volume, node.IPv4)
			}
			address := second.IPv4
			if round.taken {
				address = node.IPv4
				r.env.take(t, second, address)
			}
			for _, c := range cases {
				f.attach(t, c.volume, address)
				c.overwrite(t, second, address)
			}
			<-time.After(round.away) // the server reports a client that is silent for longer than its lease, but not when it expires
			if round.taken {
				r.env.giveUp(t, second, address)
			}
			for _, c := range cases {
				if !round.taken { // otherwise the attachment of the first node's address continues
					f.detach(t, c.volume, address)
					f.attach(t, c.volume, node.IPv4)
				}
			}
			if round.cut {
				assert.NilError(t, node.RestoreNetwork())
			}
			for _, c := range cases {
				c.settle(t, node)
			}
			for _, c := range cases {
				assert.Check(t, c.holds(newText), "%s: the server has %q of what was written before the fence", c.name, c.read())
			}
			for _, c := range cases {
				c.mountedAgain(t, node)
			}
		})
	}
}

// fence is a store on the engine of a run.
type fence struct {
	tenant *storage.Tenant
}

func startFence(t *testing.T, r *run, tenant string) *fence {
	t.Helper()
	engine := r.New(t, r.env)
	// The test's context ends before its cleanup.
	config := storage.Config{BasePath: r.env.Base, Tenants: []string{tenant}, Quota: storage.QuotaOff}
	_, _, err := pool.Init(config.Pool())
	assert.NilError(t, err)
	store, err := storage.Open(context.Background(), config, engine)
	assert.NilError(t, err)
	t.Cleanup(func() {
		assert.Check(t, store.Close(context.Background()))
		assert.Check(t, engine.Close())
	})
	ten, err := store.Tenant(tenant)
	assert.NilError(t, err)
	return &fence{ten}
}

// create creates a volume and returns the path of its data.
func (f *fence) create(t *testing.T, name string) string {
	t.Helper()
	v, _, err := f.tenant.CreateVolume(t.Context(), storage.VolumeSpec{Name: name, SizeBytes: 64 << 20})
	assert.NilError(t, err)
	return filepath.Join(v.Path, "data")
}

func (f *fence) attach(t *testing.T, volume string, client netip.Addr) {
	t.Helper()
	_, err := f.tenant.Export(t.Context(), volume, storage.ExportSpec{Client: client})
	assert.NilError(t, err)
}

func (f *fence) detach(t *testing.T, volume string, client netip.Addr) {
	t.Helper()
	assert.NilError(t, bounded(t, "unexport", func() error { return f.tenant.Unexport(t.Context(), volume, client, nil) }))
}

// staleCase is one way for a node to have unwritten data.
type staleCase struct {
	name    string
	flags   []string // of nfs-writer
	waits   bool     // its write waits for the server
	closes  bool     // the file is closed, which waits for the server
	unmount []string // options of umount(8)

	volume  string
	onPool  string // path of the file for the test
	mounted string // path of the mount for the test
	writer  *process
	pending []string // commands that the writer has not answered
}

func staleCases() []*staleCase {
	return []*staleCase{
		{name: "buffered"},
		{name: "buffered-closed", closes: true},
		{name: "buffered-locked", flags: []string{"-lock"}},
		{name: "direct", flags: []string{"-direct"}, waits: true},
		{name: "synchronous", flags: []string{"-sync"}, waits: true},
		{name: "mapped", flags: []string{"-mapped"}},
		{name: "unmounted-lazily", unmount: []string{"-l"}},
		{name: "unmounted-by-force", unmount: []string{"-f", "-l"}},
		{name: "direct-unmounted-by-force", flags: []string{"-direct"}, waits: true, unmount: []string{"-f", "-l"}},
		{name: "mapped-unmounted-lazily", flags: []string{"-mapped"}, unmount: []string{"-l"}},
	}
}

// Texts of a page.
var (
	oldText = strings.Repeat("old ", 1024)
	newText = strings.Repeat("NEW ", 1024)
)

// begin publishes the volume to the node, which opens a file in it.
func (c *staleCase) begin(t *testing.T, f *fence, node *Node) {
	t.Helper()
	c.volume = c.name
	path := f.create(t, c.volume)
	c.onPool = filepath.Join(path, "file")
	f.attach(t, c.volume, node.IPv4)
	c.mounted = node.mountPlainly(t, path)
	c.writer = node.startWriter(t, append(c.flags, filepath.Join(node.inside(c.mounted), "file"))...)
	c.writer.tell(t, "prepare old ")
	assert.Equal(t, c.writer.answer(t, "prepare"), "<nil>")
	assert.Assert(t, c.holds(oldText))
}

// dirty makes the node write. It does not wait for commands that may wait for the server.
func (c *staleCase) dirty(t *testing.T, node *Node) {
	t.Helper()
	c.writer.tell(t, "write STALE   ")
	if c.waits {
		c.pending = append(c.pending, "write")
	} else {
		assert.Equal(t, c.writer.answer(t, "write"), "<nil>")
	}
	if c.closes {
		c.later(t, "close")
	}
	if c.unmount != nil {
		_, err := node.Run("umount", append(slices.Clone(c.unmount), node.inside(c.mounted))...)
		assert.NilError(t, err)
	}
}

func (c *staleCase) later(t *testing.T, command string) {
	t.Helper()
	c.writer.tell(t, command)
	c.pending = append(c.pending, command)
}

// overwrite makes the other node write, from the given address.
func (c *staleCase) overwrite(t *testing.T, node *Node, from netip.Addr) {
	t.Helper()
	at := node.mountPlainly(t, filepath.Dir(c.onPool), "clientaddr="+from.String())
	assert.NilError(t, bounded(t, "writing on the other node", func() error { return overwriteDurably(filepath.Join(at, "file"), newText) }))
	assert.Assert(t, c.holds(newText))
	_, err := node.Run("umount", node.inside(at))
	assert.NilError(t, err)
}

func overwriteDurably(path, text string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	return errors.Join(err, file.Sync(), file.Close())
}

// settle returns when no write of the first node is pending: the server has accepted or refused all
// of them.
func (c *staleCase) settle(t *testing.T, node *Node) {
	t.Helper()
	if !c.closes {
		c.later(t, "sync")
		c.later(t, "close")
	}
	var answers []string
	for _, command := range c.pending {
		answers = append(answers, command+": "+c.writer.answer(t, command))
	}
	t.Logf("%s: %s", c.name, strings.Join(answers, "; "))
	_, err := node.Run("timeout", "30", "sync")
	assert.NilError(t, err)
}

// mountedAgain checks that the present attachment works for the first node.
func (c *staleCase) mountedAgain(t *testing.T, node *Node) {
	t.Helper()
	at := node.mountPlainly(t, filepath.Dir(c.onPool))
	text, err := readFile(t, filepath.Join(at, "file"))
	assert.NilError(t, err)
	assert.Check(t, text == newText, "%s: a new mount reads %q", c.name, head8(text))
	works(t, at, filepath.Dir(c.onPool))
}

func (c *staleCase) holds(text string) bool {
	have, err := os.ReadFile(c.onPool)
	return err == nil && string(have) == text
}

func (c *staleCase) read() string {
	have, err := os.ReadFile(c.onPool)
	return head8(fmt.Sprint(string(have), err))
}

func head8(text string) string { return text[:min(8, len(text))] }

// mountPlainly mounts like the node driver, with caches, until the test ends.
func (n *Node) mountPlainly(t *testing.T, path string, options ...string) string {
	t.Helper()
	n.mounts++
	at := filepath.Join(n.folder, fmt.Sprint("plain", n.mounts))
	assert.NilError(t, os.Mkdir(at, 0o755))
	options = append([]string{"vers=4.2", "hard", "retry=0"}, options...)
	_, err := n.Run("timeout", "30", "mount", "-t", "nfs", "-o", strings.Join(options, ","), n.server.IP.String()+":"+path, at)
	assert.NilError(t, err)
	t.Cleanup(func() { _, _ = n.Run("umount", "-f", "-l", at) }) // some tests have already unmounted it
	return n.Path(at)
}

// process is nfs-writer on a node.
type process struct {
	input  *os.File // a FIFO
	output string   // a file
}

func (n *Node) startWriter(t *testing.T, args ...string) *process {
	t.Helper()
	folder := t.TempDir()
	fifo := filepath.Join(folder, "commands")
	assert.NilError(t, unix.Mkfifo(fifo, 0o600))
	input, err := os.OpenFile(fifo, os.O_RDWR, 0) // does not wait for a reader
	assert.NilError(t, err)
	// Names of daemons are unique on a node.
	n.mounts++
	program := filepath.Join(folder, fmt.Sprint("nfs-writer-", n.mounts))
	assert.NilError(t, os.Symlink(filepath.Join(os.Getenv("BNC_BIN"), "nfs-writer"), program))
	assert.NilError(t, n.StartDaemon(program, append([]string{"-commands", fifo}, args...)...))
	t.Cleanup(func() {
		n.StopDaemon(program)
		assert.Check(t, input.Close())
	})
	return &process{input: input, output: n.Path("/run/" + filepath.Base(program) + ".log")}
}

func (p *process) tell(t *testing.T, command string) {
	t.Helper()
	_, err := p.input.WriteString(command + "\n")
	assert.NilError(t, err)
}

// answer waits for the answer to a command.
func (p *process) answer(t *testing.T, command string) (answer string) {
	t.Helper()
	eventually(t, "no answer to "+command, func() bool {
		text, err := os.ReadFile(p.output)
		if err != nil {
			return false
		}
		for line := range strings.Lines(string(text)) {
			if found, ok := strings.CutPrefix(line, command+": "); ok {
				answer = strings.TrimSpace(found)
				return true
			}
		}
		return false
	})
	return answer
}

// take gives the node an additional address, from which it then sends to the server.
func (env *TestEnv) take(t *testing.T, n *Node, address netip.Addr) {
	t.Helper()
	env.readdress(t, n, "ip address add "+address.String()+"/32 dev eth0", "ip route add "+n.server.IP.String()+"/32 dev eth0 src "+address.String())
	env.Run("ip", "neighbour", "flush", "to", address.String())
}

// giveUp reverts take.
func (env *TestEnv) giveUp(t *testing.T, n *Node, address netip.Addr) {
	t.Helper()
	env.readdress(t, n, "ip route delete "+n.server.IP.String()+"/32 dev eth0 src "+address.String(), "ip address delete "+address.String()+"/32 dev eth0")
	env.Run("ip", "neighbour", "flush", "to", address.String())
}

func (env *TestEnv) readdress(t *testing.T, n *Node, commands ...string) {
	t.Helper()
	for _, command := range commands {
		_, err := n.Run("sh", "-c", command)
		assert.NilError(t, err)
	}
}

// manyClients checks that one volume can have as many clients as an agent allows, each with another
// file system ID. Fencing one does not affect the others.
func manyClients(t *testing.T, r *run) {
	const most = 4096
	volume := r.env.Volume("shared", r.env.Nodes[0].IPv4)
	exports := []nfs.Export{volume}
	for i := range most - 1 {
		exports = append(exports, renewed(nfs.Export{Path: volume.Path, Client: netip.AddrFrom4([4]byte{10, 97, byte(i >> 8), byte(i)})}))
	}
	began := time.Now()
	r.export(t, exports...)
	t.Logf("%d clients of one volume: %v", most, time.Since(began).Round(time.Millisecond))
	hasExactly(t, r.engine, exports...)
	client := r.env.Nodes[0].rawClient(t)
	file := filepath.Join(volume.Path, "file")
	assert.NilError(t, os.WriteFile(file, []byte("text"), 0o644))
	handle := client.awaitHandle(t, file)
	began = time.Now()
	r.unexport(t, volume)
	t.Logf("one of them revoked: %v", time.Since(began).Round(time.Millisecond))
	_, err := client.read(handle)
	shutOut(t, err)
	hasExactly(t, r.engine, exports[1:]...)
	again := renewed(volume)
	r.export(t, again)
	shutOut(t, client.write(handle, "stale"))
	handle = client.awaitHandle(t, file)
	assert.NilError(t, client.write(handle, "text"))

	began = time.Now()
	assert.NilError(t, r.engine.Close())
	r.engine = r.start(t)
	hasExactly(t, r.engine)
	t.Logf("all of them revoked by a start: %v", time.Since(began).Round(time.Millisecond))
}

// renewed returns the export of a later attachment of the same client.
func renewed(export nfs.Export) nfs.Export {
	export.FSID = uuid.New()
	return export
}
