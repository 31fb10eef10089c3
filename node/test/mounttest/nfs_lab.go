//go:build lab

package mounttest

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/mountoptions"
)

// NFS is a Backend of btrfs subvolumes on the lab's two NFS servers, of which the spare one is
// fragile. This machine is the worker node.
type NFS struct {
	mounter           *nfsmount.Mounter
	lab               *lab.Lab
	reliable, fragile *lab.Host
	count             atomic.Int64
}

// Many is a number of volumes that an emulated machine creates within minutes.
const Many = 40

// shared is the only backend of a test binary: servers take seconds to start.
var shared struct {
	once sync.Once
	nfs  *NFS
	err  error
}

// New returns the machine's NFS backend.
func New(t *testing.T) Backend {
	t.Helper()
	shared.once.Do(func() { shared.nfs, shared.err = newNFS() })
	assert.NilError(t, shared.err)
	return shared.nfs
}

// shutdown stops the servers. The machine is discarded after that.
func shutdown() {
	if shared.nfs != nil {
		_ = shared.nfs.lab.Close() // errors are expected: mounts of tests may be busy
	}
}

func newNFS() (*NFS, error) {
	l, err := lab.Start(lab.Options{SpareStorage: true, PoolSize: 2 << 30})
	if err != nil {
		return nil, err
	}
	n := &NFS{lab: l, reliable: l.Storage, fragile: l.Spare}
	n.mounter = nfsmount.New(n.Limits(), slog.New(slog.NewTextHandler(os.Stderr, nil)))
	return n, nil
}

// Mounter manages NFS mounts.
func (n *NFS) Mounter() *nfsmount.Mounter { return n.mounter }

// Filesystem is NFS.
func (n *NFS) Filesystem() nfsmount.Filesystem { return nfsmount.NFS() }

// Limits suit an emulated machine.
func (n *NFS) Limits() nfsmount.Limits {
	return nfsmount.Limits{Mount: 6 * time.Second, Unmount: 6 * time.Second, Stat: 2 * time.Second, Group: 30 * time.Second}
}

// Options returns the driver's defaults.
func (n *NFS) Options() []string { return mountoptions.Defaults() }

// NewVolume returns a subvolume on the reliable server, exported to this machine.
func (n *NFS) NewVolume(t *testing.T) nfsmount.Source {
	t.Helper()
	return n.volume(t, n.reliable, n.reliable.IP)
}

// NewVolume6 returns a volume whose server is reached over IPv6.
func (n *NFS) NewVolume6(t *testing.T) nfsmount.Source {
	t.Helper()
	return n.volume(t, n.reliable, n.reliable.IP6)
}

// NewFragile returns a subvolume on the other server.
func (n *NFS) NewFragile(t *testing.T) Fragile {
	t.Helper()
	source := n.volume(t, n.fragile, n.fragile.IP)
	must := func(action func() error) func() {
		return func() {
			t.Helper()
			assert.NilError(t, action())
		}
	}
	t.Cleanup(must(n.fragile.RestoreNetwork))
	return Fragile{
		Source:  source,
		Silence: must(n.fragile.CutNetwork),
		Revive:  must(n.fragile.RestoreNetwork),
		Revoke:  must(func() error { return n.unexport(n.fragile, source.Path) }),
		Restore: must(func() error { return n.export(n.fragile, source.Path) }),
	}
}

func (n *NFS) volume(t *testing.T, server *lab.Host, address netip.Addr) nfsmount.Source {
	t.Helper()
	path := filepath.Join(n.lab.Pool, "tenant", fmt.Sprintf("vol-%d", n.count.Add(1)), "data")
	source, err := nfsmount.NewSource(address.String(), path)
	assert.NilError(t, err)
	assert.NilError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	_, err = server.Run("btrfs", "subvolume", "create", path)
	assert.NilError(t, err)
	assert.NilError(t, n.export(server, path))
	return source
}

// export lets this machine in, from both of its addresses. Like the agent for each attachment, it
// gives each export another file system ID, so that mounts from before an unexport stay stale.
func (n *NFS) export(server *lab.Host, path string) error {
	for _, client := range n.clients() {
		fsid, err := os.ReadFile("/proc/sys/kernel/random/uuid")
		if err != nil {
			return err
		}
		options := "rw,no_root_squash,no_subtree_check,fsid=" + strings.TrimSpace(string(fsid))
		if _, err := server.Run("exportfs", "-o", options, client+":"+path); err != nil {
			return err
		}
	}
	return nil
}

func (n *NFS) unexport(server *lab.Host, path string) error {
	for _, client := range n.clients() {
		if _, err := server.Run("exportfs", "-u", client+":"+path); err != nil {
			return err
		}
	}
	_, err := server.Run("exportfs", "-f")
	return err
}

func (n *NFS) clients() []string { return []string{n.lab.IP.String(), "[" + n.lab.IP6.String() + "]"} }
