// Package lab gives a test a storage host with a btrfs pool and a kernel NFS server, and any
// number of worker nodes, each with an address of its own.
//
// The hosts are network and mount namespaces of the kernel that the test runs in, joined by a
// bridge to which the test process belongs as well; the test process can also be the storage host
// itself (Options.StorageInTest). They need a kernel with btrfs, nfs and nfsd,
// and a machine whose mounts and network are nobody else's: run the test with
//
//	go test -exec "$PWD/bin/lab exec" ./...
//
// All hosts share the process table and the files of the machine; mounts, network, host name,
// /run and /sys are each host's own.
package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Options describe a lab. The zero value is one with no worker nodes and a pool of 1 GiB, whose
// NFS server runs and leaves exports to exportfs.
type Options struct {
	// Nodes is the number of worker nodes, at most 200.
	Nodes int
	// PoolSize is that of the file behind the pool, in bytes; default 1 GiB. The file is sparse.
	PoolSize int64
	// PoolDevice is a block device to use in place of a file, such as /dev/ubda.
	PoolDevice string
	// KeepPool mounts the btrfs that PoolDevice holds, if it holds one, instead of a fresh one.
	KeepPool bool
	// PoolDir is where the pool is mounted; default /srv/btrfs.
	PoolDir string
	// PoolMountOptions are for mount(8), such as "noatime".
	PoolMountOptions string
	// StorageInTest makes the test process itself the storage host, for a test that runs the
	// agent's export engine in its own process: the pool, the NFS server and the address are in
	// the test's namespaces. The test has no other address then, and Storage cannot be rebooted.
	StorageInTest bool
	// SpareStorage adds a second storage host with a running server, for a test that takes one
	// away. It has the same pool.
	SpareStorage bool
	// NFS says who tells the kernel what is exported.
	NFS NFSMode
	// NFSMaxVersion is the newest version that the server offers, unless the agent starts it: 4.2, the
	// default, or 4.1.
	NFSMaxVersion string
	// NFSStopped leaves starting the server to the test.
	NFSStopped bool
	// NFSScope is the server scope that clients know the server by, unless the agent starts it;
	// default: the host name.
	NFSScope string
	// NFSThreads is the number of server threads; default 8.
	NFSThreads int
	// Uplink is an interface of this machine that joins the hosts' network, which other machines
	// then belong to as well.
	Uplink string
	// Lease and Grace are the NFSv4 server's, in whole seconds of at least 10 s for the lease;
	// default 10 s each.
	Lease, Grace time.Duration
}

// NFSMode says who answers the kernel's questions about exports.
type NFSMode int

const (
	// Mountd is rpc.mountd, driven by exportfs and the exports files.
	Mountd NFSMode = iota
	// Unanswered is nobody: the test starts something that does.
	Unanswered
	// Agent is the agent's kernel engine, which starts the server, too: the lab only runs what the server needs.
	Agent
)

// Lab is a storage host and its worker nodes.
type Lab struct {
	Storage *Host
	Spare   *Host // see Options.SpareStorage
	Nodes   []*Host
	// IP and IP6 are the test's own addresses.
	IP, IP6 netip.Addr
	// Pool is where the btrfs file system is mounted, on the storage host and for the test.
	Pool string

	options Options
	shell   *shell
	pool    pool
	nfs     *nfsServer
	lock    *os.File
}

// The hosts' numbers, which are the last part of their addresses.
const (
	testNumber    = 254
	storageNumber = 1
	spareNumber   = 2
	firstNode     = 11
	maxNodes      = 200
)

// New makes a lab, and removes it when the test ends. A machine holds one at a time: New waits
// for another test's. Outside the lab's machines it skips the test, or fails it when
// BNC_LAB_REQUIRED is set.
func New(t testing.TB, o Options) *Lab {
	t.Helper()
	Require(t)
	l, err := Start(o)
	if err != nil {
		t.Fatalf("lab: %v", err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("lab: tear down: %v", err)
		}
	})
	return l
}

// Require skips a test that runs outside the lab's machines, or fails it when BNC_LAB_REQUIRED is set.
func Require(t testing.TB) {
	t.Helper()
	err := requireMachine()
	switch {
	case err == nil:
	case os.Getenv("BNC_LAB_REQUIRED") != "":
		t.Fatal(err)
	default:
		t.Skip(err)
	}
}

// Start is New for a program that is no test: it closes the lab itself.
func Start(o Options) (*Lab, error) {
	if err := requireMachine(); err != nil {
		return nil, err
	}
	l, err := newLab(o.withDefaults())
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// machineDir is made by the lab's process 1.
const machineDir = "/lab"

func requireMachine() error {
	if _, err := os.Stat(machineDir + "/bin"); err != nil {
		return errors.New(`needs a kernel with NFS in a machine of the lab: go test -exec "$PWD/bin/lab exec"`)
	}
	return nil
}

func (o Options) withDefaults() Options {
	if o.PoolSize == 0 {
		o.PoolSize = 1 << 30
	}
	if o.PoolDir == "" {
		o.PoolDir = "/srv/btrfs"
	}
	if o.NFSThreads == 0 {
		o.NFSThreads = 8
	}
	if o.Lease == 0 {
		o.Lease = 10 * time.Second
	}
	if o.Grace == 0 {
		o.Grace = 10 * time.Second
	}
	return o
}

// newLab returns what it has made also when it fails, to be closed.
func newLab(o Options) (l *Lab, err error) {
	l = &Lab{Pool: o.PoolDir, options: o}
	l.IP, l.IP6 = address(testNumber)
	if o.StorageInTest {
		l.IP, l.IP6 = address(storageNumber)
	}
	if o.Nodes > maxNodes {
		return l, fmt.Errorf("%d nodes: at most %d", o.Nodes, maxNodes)
	}
	if l.lock, err = lockMachine(); err != nil {
		return l, err
	}
	if l.shell, err = startShell(); err != nil {
		return l, err
	}
	if err := l.shell.makeBridge(!o.StorageInTest, o.Uplink); err != nil {
		return l, err
	}
	// The nodes come before the pool is mounted, so that they have no copy of that mount.
	for i := range o.Nodes {
		node := newHost(l.shell, fmt.Sprintf("node-%d", i+1), firstNode+i, nodeScript)
		l.Nodes = append(l.Nodes, node)
		if err := node.boot(); err != nil {
			return l, err
		}
	}
	l.pool.shell = l.shell
	if err := l.pool.mount(l.Pool, o); err != nil {
		return l, err
	}
	l.Storage = newHost(l.shell, "storage", storageNumber, storageScript)
	l.Storage.inTest = o.StorageInTest
	if l.nfs, err = bootStorage(l.Storage, o); err != nil {
		return l, err
	}
	if !o.NFSStopped {
		if err := l.nfs.start(); err != nil {
			return l, err
		}
	}
	if o.SpareStorage {
		l.Spare = newHost(l.shell, "spare", spareNumber, storageScript)
		spare, err := bootStorage(l.Spare, o)
		if err != nil {
			return l, err
		}
		return l, spare.start()
	}
	return l, nil
}

// bootStorage boots a new storage host, and returns its server, which does not run.
func bootStorage(h *Host, o Options) (*nfsServer, error) {
	if err := makeStorageState(h.Name); err != nil {
		return nil, err
	}
	server := &nfsServer{host: h, options: o}
	h.onHalt = server.halt // server threads belong to the kernel
	return server, h.boot()
}

// Close takes everything down, in the reverse order, as far as it was made.
func (l *Lab) Close() error {
	var errs []error
	for _, node := range l.Nodes {
		errs = append(errs, node.halt())
	}
	for _, storage := range []*Host{l.Spare, l.Storage} {
		if storage != nil {
			errs = append(errs, storage.halt())
		}
	}
	errs = append(errs, l.pool.unmount())
	if l.shell != nil {
		errs = append(errs, l.shell.removeBridge(), l.shell.close())
	}
	if l.lock != nil {
		errs = append(errs, l.lock.Close())
	}
	return errors.Join(errs...)
}

func lockMachine() (*os.File, error) {
	f, err := os.OpenFile(machineDir+"/lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// address returns a host's addresses: 10.77.0.n, and fd77::n with n's decimal digits.
func address(n int) (v4, v6 netip.Addr) {
	return netip.MustParseAddr(fmt.Sprintf("10.77.0.%d", n)), netip.MustParseAddr(fmt.Sprintf("fd77::%d", n))
}
