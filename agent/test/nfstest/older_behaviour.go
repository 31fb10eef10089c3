//go:build lab

package nfstest

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
)

// StartOlderServer starts the NFS server with NFSv3 and NFSv4.0, as an administrator may configure
// it.
func (env *TestEnv) StartOlderServer() {
	env.t.Helper()
	env.StartRpcbind()
	env.SetTimes()
	for _, file := range []string{"nlm_timeout", "nlm_grace_period"} { // of lockd, which has a separate grace period
		assert.NilError(env.t, os.WriteFile("/proc/sys/fs/nfs/"+file, []byte("3\n"), 0))
	}
	env.Run("rpc.nfsd", "-V", "3", "-V", "4.0", "-V", "4.1", "-V", "4.2", "8")
}

// StartRpcbind starts rpcbind, which a server with NFSv3 needs.
func (env *TestEnv) StartRpcbind() {
	env.t.Helper()
	env.StartDaemon("rpcbind", "-f", "-w")
	eventually(env.t, "rpcbind answers", func() bool {
		_, err := env.Lab.Storage.Run("rpcinfo", "-p", "127.0.0.1")
		return err == nil
	})
}

// OlderVersions tests an engine on a server that offers NFSv3 and NFSv4.0. The engine serves
// volumes over NFSv4.2. It also fences a client of the older versions that has only the handle of a
// file.
func OlderVersions(t *testing.T, env *TestEnv, engine nfs.Exporter) {
	t.Helper()
	volume := env.Volume("v1", env.Nodes[0].IPv4)
	file := filepath.Join(volume.Path, "file")
	assert.NilError(t, os.WriteFile(file, []byte("before"), 0o644))
	assert.NilError(t, engine.Start(t.Context(), []nfs.Export{volume, env.Volume("v2", env.Nodes[1].IPv4)}))
	works(t, env.Nodes[0].Mount(t, volume), volume.Path)

	client, stranger := env.Nodes[0].rawClient(t), env.Nodes[1].rawClient(t)
	handle, err := client.handle(file)
	assert.NilError(t, err)
	for version, can := range map[string]struct {
		read  func(*rawClient, []byte) error
		write func(*rawClient, []byte, string) error
	}{
		"3":   {(*rawClient).read3, (*rawClient).write3},
		"4.0": {(*rawClient).read40, (*rawClient).write40},
	} {
		assert.NilError(t, engine.Export(t.Context(), []nfs.Export{volume}))
		eventuallyNFS(t, "NFSv"+version, func() error { return can.read(client, handle) })
		assert.NilError(t, can.write(client, handle, "within"), version)
		shutOut(t, can.read(stranger, handle))

		assert.NilError(t, engine.Unexport(t.Context(), []nfs.Export{volume}))
		shutOut(t, can.read(client, handle))
		shutOut(t, can.write(client, handle, "beyond"))
		content, err := os.ReadFile(file)
		assert.NilError(t, err)
		assert.Equal(t, string(content), "within", version)
	}
}

// NewestVersion41 tests an engine whose newest version is NFSv4.1: clients mount with 4.1, and not
// with 4.2.
func NewestVersion41(t *testing.T, env *TestEnv, engine nfs.Exporter) {
	t.Helper()
	volume := env.Volume("v41", env.Nodes[0].IPv4)
	assert.NilError(t, engine.Start(t.Context(), []nfs.Export{volume}))
	assert.DeepEqual(t, nfsd.NewServer("/proc").Versions(), []string{"4.1"})
	works(t, env.Nodes[0].Mount(t, volume, "vers=4.1"), volume.Path)
	_, err := env.Nodes[0].TryMount(t, volume.Path, false, "vers=4.2")
	assert.ErrorContains(t, err, "Protocol not supported")
}

// LocksOfVersion3 checks what docs/security.md says about NFSv3 locks. They belong to another
// protocol and are not NFSv4 state. The locks of a fenced client stay. While it has another volume,
// it gets more locks on a file that already has locks. It cannot read or write.
func LocksOfVersion3(t *testing.T, env *TestEnv, engine nfs.Exporter) {
	t.Helper()
	ours, theirs := env.Volume("v1", env.Nodes[0].IPv4), env.Volume("v1", env.Nodes[1].IPv4)
	for _, name := range []string{"locked", "idle"} {
		assert.NilError(t, os.WriteFile(filepath.Join(ours.Path, name), nil, 0o644))
	}
	assert.NilError(t, engine.Start(t.Context(), []nfs.Export{ours, theirs, env.Volume("v2", env.Nodes[0].IPv4)}))
	client := env.Nodes[0].rawClient(t)
	locked, err := client.handle(filepath.Join(ours.Path, "locked"))
	assert.NilError(t, err)
	idle, err := client.handle(filepath.Join(ours.Path, "idle"))
	assert.NilError(t, err)
	first, second := env.lockClient(t, env.Nodes[0]), env.lockClient(t, env.Nodes[1])

	eventuallyNFS(t, "a lock, after the grace period", func() error { return first.lock(locked, 0) })
	assert.Equal(t, second.lock(locked, 0), lockDenied)
	assert.NilError(t, engine.Unexport(t.Context(), []nfs.Export{ours}))
	shutOut(t, client.read3(locked))
	assert.Equal(t, second.lock(locked, 0), lockDenied)
	assert.NilError(t, first.lock(locked, 1))
	assert.Equal(t, first.lock(idle, 0), lockStale)
}

// Showmount asks rpc.mountd for its exports from the node.
func (n *Node) Showmount() (string, error) {
	return n.Run("timeout", "20", "showmount", "--exports", n.server.IP.String())
}

// Procedures of NFSv3 (RFC 1813). The numbers of the relevant statuses are those of NFSv4.
const (
	procedureRead3  = 6
	procedureWrite3 = 7
)

func (c *rawClient) read3(handle []byte) error {
	return c.call3(procedureRead3, xdr{}.opaque(handle).number(0, 0, 4096))
}

func (c *rawClient) write3(handle []byte, text string) error {
	const fileSync = 2
	return c.call3(procedureWrite3, xdr{}.opaque(handle).number(0, 0, uint32(len(text)), fileSync).opaque([]byte(text)))
}

func (c *rawClient) call3(procedure uint32, arguments xdr) error {
	r, err := c.rpc(programNFS, 3, procedure, arguments)
	if err != nil {
		return err
	}
	status := r.number()
	if r.err == nil && status != 0 {
		return nfsError(status)
	}
	return r.err
}

// NFSv4.0 has no sessions (RFC 7530): operations are sent without one.
func (c *rawClient) read40(handle []byte) error {
	_, err := c.compoundOf(0, xdr{}.number(opPutFH).opaque(handle).number(opRead).bytes(anybody).number(0, 0, 4096), 2)
	return err
}

func (c *rawClient) write40(handle []byte, text string) error {
	_, err := c.compoundOf(0, xdr{}.number(opPutFH).opaque(handle).
		number(opWrite).bytes(anybody).number(0, 0, 2).opaque([]byte(text)), 2)
	return err
}

// Statuses of NLM, the lock protocol of NFSv3 (The Open Group, Protocols for Interworking: XNFS,
// Version 3W, chapter 14).
const (
	lockDenied = lockError(1)
	lockStale  = lockError(7)
)

type lockError uint32

func (e lockError) Error() string { return fmt.Sprintf("NLM status %d", uint32(e)) }

const programNLM = 100021

// lockClient connects a node to the server's lockd, at its registered port.
func (env *TestEnv) lockClient(t *testing.T, n *Node) *rawClient {
	t.Helper()
	for line := range strings.Lines(env.Run("rpcinfo", "-p", "127.0.0.1")) {
		if fields := strings.Fields(line); len(fields) > 3 && fields[0] == fmt.Sprint(programNLM) && fields[1] == "4" && fields[2] == "tcp" {
			conn, err := n.dial(netip.MustParseAddrPort(n.server.IP.String() + ":" + fields[3]))
			assert.NilError(t, err)
			t.Cleanup(func() { _ = conn.Close() }) // nothing is buffered
			return &rawClient{conn: conn}
		}
	}
	t.Fatal("lockd is not registered")
	return nil
}

// lock takes an exclusive lock on one byte (NLM_NM_LOCK, which needs no rpc.statd).
func (c *rawClient) lock(handle []byte, offset uint32) error {
	const procedureLock, exclusive = 22, 1
	name := []byte(c.conn.LocalAddr().String())
	lock := xdr{}.opaque(name).opaque(handle).opaque(name).number(1, 0, offset, 0, 1)
	r, err := c.rpc(programNLM, 4, procedureLock, xdr{}.opaque([]byte("cookie")).number(0, exclusive).bytes(lock).number(0, 0))
	if err != nil {
		return err
	}
	r.opaque()
	status := r.number()
	if r.err == nil && status != 0 {
		return lockError(status)
	}
	return r.err
}
