// Package lab gives a test a storage host with a btrfs pool and a kernel NFS server, and any number
// of worker nodes with separate addresses.
//
// The hosts are network and mount namespaces of the kernel that the test runs in. A bridge joins
// them, and the test process is also connected to it. The test process can also be the storage host
// (Options.StorageInTest). They need a kernel with btrfs, nfs and nfsd, and a machine whose mounts
// and network no other process uses. Run the test with
//
//	go test -exec "$PWD/bin/lab exec" ./...
//
// All hosts share the process table and the files of the machine. Mounts, network, host name, /run
// and /sys are separate for each host.
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

// Options describe a lab. The zero value is a lab with no worker nodes and a pool of 1 GiB, whose
// NFS server runs and leaves exports to exportfs.
type Options struct {
	// Nodes is the number of worker nodes, at most 200.
	Nodes int
	// PoolSize is the size of the file behind the pool, in bytes. The default is 1 GiB. The file is
	// sparse.
	PoolSize int64
	// PoolDevice is a block device instead of the file, such as /dev/ubda.
	PoolDevice string
	// KeepPool mounts the btrfs on PoolDevice instead of creating one, if there is one.
	KeepPool bool
	// PoolDir is the mount point of the pool. The default is /srv/btrfs.
	PoolDir string
	// PoolMountOptions are for mount(8), such as "noatime".
	PoolMountOptions string
	// StorageInTest makes the test process the storage host, for a test that runs the agent's export
	// engine in its process. The pool, the NFS server and the address are in the test's namespaces.
	// The test then has no other address, and Storage cannot be rebooted.
	StorageInTest bool
	// SpareStorage adds a second storage host with a running server, for a test that stops one. It has
	// the same pool.
	SpareStorage bool
	// NFS selects the process that answers the kernel's export upcalls.
	NFS NFSMode
	// NFSMaxVersion is the newest version that the server offers, unless the agent starts it. It is
	// 4.2, the default, or 4.1.
	NFSMaxVersion string
	// NFSStopped leaves starting the server to the test.
	NFSStopped bool
	// NFSScope is the server scope that clients see, unless the agent starts the server. The default
	// is the host name.
	NFSScope string
	// NFSThreads is the number of server threads. The default is 8.
	NFSThreads int
	// Uplink is an interface of this machine that joins the hosts' network. Other machines then belong
	// to that network as well.
	Uplink string
	// Lease and Grace are the times of the NFSv4 server, in whole seconds. The lease is at least 10 s.
	// The default is 10 s each.
	Lease, Grace time.Duration
}

// NFSMode selects the process that answers the kernel's export upcalls.
type NFSMode int

const (
	// Mountd is rpc.mountd, configured by exportfs and the exports files.
	Mountd NFSMode = iota
	// Unanswered means that the lab starts no such process. The test starts one.
	Unanswered
	// Agent is the agent's kernel engine, which also starts the server. The lab only runs the daemons
	// that the server needs.
	Agent
)

// Lab is a storage host and its worker nodes.
type Lab struct {
	Storage *Host
	Spare   *Host // see Options.SpareStorage
	Nodes   []*Host
	// IP and IP6 are the addresses of the test.
	IP, IP6 netip.Addr
	// Pool is the mount point of the pool, on the storage host and for the test.
	Pool string

	options Options
	shell   *shell
	pool    pool
	nfs     *nfsServer
	lock    *os.File
}

// Numbers of the hosts, which are the last part of their addresses.
const (
	testNumber    = 254
	storageNumber = 1
	spareNumber   = 2
	firstNode     = 11
	maxNodes      = 200
)

// New creates a lab and removes it when the test ends. A machine holds one lab at a time: New waits
// until another test's lab has ended. Outside the lab's machines it skips the test, or fails it if
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

// Require skips a test that runs outside the lab's machines, or fails it if BNC_LAB_REQUIRED is
// set.
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

// Start is New for a program that is not a test. The program has to close the lab.
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

// machineDir is created by the lab's process 1.
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

// newLab returns the unfinished lab even if it fails, so that the caller can close it.
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
	// The nodes start before the pool is mounted, so that they have no copy of that mount.
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

// Close removes all that newLab has created, in the reverse order.
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
