//go:build lab

package mounttest

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
)

// NFS is a Backend of btrfs subvolumes on two NFS servers, one of which is fragile. This machine is the worker node.
type NFS struct {
	mounter           *nfsmount.Mounter
	pool              string
	reliable, fragile *nfsServer
	count             atomic.Int64
}

// Many is a number of volumes whose making does not take minutes on an emulated machine.
const Many = 40

// shared is the one backend of a test binary: servers take seconds to start.
var shared struct {
	once sync.Once
	nfs  *NFS
	err  error
}

// New is the machine's NFS backend.
func New(t *testing.T) Backend {
	t.Helper()
	shared.once.Do(func() { shared.nfs, shared.err = newNFS() })
	assert.NilError(t, shared.err)
	return shared.nfs
}

// shutdown ends the servers. The machine is thrown away after that.
func shutdown() {
	if shared.nfs != nil {
		shared.nfs.reliable.stop()
		shared.nfs.fragile.stop()
	}
}

func newNFS() (*NFS, error) {
	if err := requireLab(); err != nil {
		return nil, err
	}
	n := &NFS{pool: "/srv/mounttest"}
	n.mounter = nfsmount.New(n.Limits(), slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err := makePool(n.pool); err != nil {
		return nil, err
	}
	if err := makeNetwork(); err != nil {
		return nil, err
	}
	var err error
	if n.reliable, err = newNFSServer(1); err != nil {
		return nil, err
	}
	n.fragile, err = newNFSServer(2)
	return n, err
}

func requireLab() error {
	_ = exec.Command("modprobe", "-a", "nfsd", "nfsv4", "loop", "veth", "bridge").Run() // built in, or missed below
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return err
	}
	if !strings.Contains(string(known), "\tnfsd\n") {
		return fmt.Errorf(`needs a kernel with NFS in a machine of its own: go test -tags lab -exec "$PWD/bin/lab exec"`)
	}
	return nil
}

// Mounter manages NFS mounts.
func (n *NFS) Mounter() *nfsmount.Mounter { return n.mounter }

// Filesystem is NFS.
func (n *NFS) Filesystem() nfsmount.Filesystem { return nfsmount.NFS() }

// Limits suit an emulated machine.
func (n *NFS) Limits() nfsmount.Limits {
	return nfsmount.Limits{Mount: 6 * time.Second, Unmount: 6 * time.Second, Stat: 2 * time.Second, Group: 30 * time.Second}
}

// Options are the driver's own.
func (n *NFS) Options() []string { return nfsmount.Defaults() }

// NewVolume is a subvolume on the reliable server, exported to this machine.
func (n *NFS) NewVolume(t *testing.T) nfsmount.Source {
	t.Helper()
	return n.export(t, n.reliable, n.reliable.ipv4)
}

// NewVolume6 is a volume whose server is reached over IPv6.
func (n *NFS) NewVolume6(t *testing.T) nfsmount.Source {
	t.Helper()
	return n.export(t, n.reliable, n.reliable.ipv6)
}

// NewFragile is a subvolume on the other server.
func (n *NFS) NewFragile(t *testing.T) Fragile {
	t.Helper()
	source := n.export(t, n.fragile, n.fragile.ipv4)
	must := func(action func() error) func() {
		return func() {
			t.Helper()
			assert.NilError(t, action())
		}
	}
	t.Cleanup(must(n.fragile.connect))
	return Fragile{
		Source:  source,
		Silence: must(n.fragile.disconnect),
		Revive:  must(n.fragile.connect),
		Revoke:  must(func() error { return n.fragile.unexport(source.Path) }),
		Restore: must(func() error { return n.fragile.export(source.Path) }),
	}
}

func (n *NFS) export(t *testing.T, server *nfsServer, address string) nfsmount.Source {
	t.Helper()
	path := filepath.Join(n.pool, "tenant", fmt.Sprintf("vol-%d", n.count.Add(1)), "data")
	source, err := nfsmount.NewSource(address, path)
	assert.NilError(t, err)
	assert.NilError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	assert.NilError(t, run("btrfs", "subvolume", "create", path))
	assert.NilError(t, server.export(path))
	return source
}

func makePool(dir string) error {
	image := filepath.Join(os.TempDir(), "mounttest-pool.img")
	for _, command := range [][]string{
		{"truncate", "-s", "2G", image}, {"mkfs.btrfs", "-q", "-f", image}, {"mkdir", "-p", dir}, {"mount", "-o", "loop", image, dir},
	} {
		if err := run(command[0], command[1:]...); err != nil {
			return err
		}
	}
	return nil
}

func run(name string, args ...string) error {
	output, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, output)
	}
	return nil
}
