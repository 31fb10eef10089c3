//go:build lab

package nfstest

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
)

// World is the lab with the test as the storage host, and two worker nodes. The engine runs in the
// test process.
type World struct {
	Lab    *lab.Lab
	Base   string // a btrfs filesystem
	Folder string // for other files
	Nodes  []*Node

	t *testing.T
}

// NewWorld creates a world until the test ends. The NFS server is stopped, but the daemons that it
// needs run.
func NewWorld(t *testing.T) *World {
	t.Helper()
	w := &World{Folder: t.TempDir(), t: t}
	w.Lab = lab.New(t, lab.Options{
		Nodes: 2, StorageInTest: true, NFSStopped: true, PoolDir: "/srv/nfstest pool",
		// btrfs cleans deleted subvolumes after a commit, by default every 30 s.
		PoolMountOptions: "commit=1",
	})
	w.Base = w.Lab.Pool
	for _, host := range w.Lab.Nodes {
		w.Nodes = append(w.Nodes, &Node{
			Host: host, IPv4: host.IP, IPv6: host.IP6, server: w.Lab.Storage, folder: t.TempDir(),
		})
	}
	w.StartDaemon("nfsdcld", "--foreground")
	eventually(t, "nfsdcld runs", func() bool {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", w.Lab.Storage.DaemonPID("nfsdcld")))
		return err == nil && string(comm) == "nfsdcld\n"
	})
	return w
}

// Run runs a program of the storage host and returns its output.
func (w *World) Run(name string, args ...string) string {
	w.t.Helper()
	out, err := w.Lab.Storage.Run(name, args...)
	assert.NilError(w.t, err)
	return out
}

// StartDaemon starts a program that stays in the foreground.
func (w *World) StartDaemon(name string, args ...string) {
	w.t.Helper()
	assert.NilError(w.t, w.Lab.Storage.StartDaemon(name, args...))
}

// StopDaemon kills a daemon.
func (w *World) StopDaemon(name string) { w.Lab.Storage.StopDaemon(name) }

// StartMountd starts rpc.mountd. StopDaemon stops it.
func (w *World) StartMountd() {
	w.t.Helper()
	assert.NilError(w.t, w.Lab.Storage.StartMountd())
}

// Threads returns the number of threads of the NFS server.
func (w *World) Threads() string {
	w.t.Helper()
	text, err := os.ReadFile("/proc/fs/nfsd/threads")
	assert.NilError(w.t, err)
	return strings.TrimSpace(string(text))
}

// StopThreads stops the NFS server.
func (w *World) StopThreads() {
	w.t.Helper()
	assert.Check(w.t, os.WriteFile("/proc/fs/nfsd/threads", []byte("0\n"), 0))
}

// SetTimes makes the grace period short. The server must be stopped.
func (w *World) SetTimes() {
	w.t.Helper()
	assert.NilError(w.t, w.Lab.SetNFSTimes())
}

// Volume creates a subvolume, and returns its export to the client as one attachment.
func (w *World) Volume(name string, client netip.Addr) nfs.Export {
	w.t.Helper()
	path := filepath.Join(w.Base, "tenant", name, "data")
	if _, err := os.Stat(path); err != nil {
		assert.NilError(w.t, os.MkdirAll(filepath.Dir(path), 0o755))
		w.Run("btrfs", "subvolume", "create", path)
	}
	return nfs.Export{Path: path, FSID: uuid.New(), Client: client}
}

// Directory creates a directory instead of a subvolume, which is faster, for exports that are not
// mounted.
func (w *World) Directory(name string, client netip.Addr) nfs.Export {
	w.t.Helper()
	path := filepath.Join(w.Base, "tenant", name, "data")
	assert.NilError(w.t, os.MkdirAll(path, 0o755))
	return nfs.Export{Path: path, FSID: uuid.NewSHA1(uuid.Nil, []byte(path)), Client: client}
}

// DeleteVolume deletes the subvolume and its parent directories.
func (w *World) DeleteVolume(export nfs.Export) {
	w.t.Helper()
	w.Run("btrfs", "subvolume", "delete", export.Path)
	assert.NilError(w.t, os.Remove(filepath.Dir(export.Path)))
}

// Answered reports whether a process waits for the kernel's upcalls.
func (w *World) Answered() bool {
	listeners, listErr := nfsd.Listeners()
	found, globErr := filepath.Glob("/proc/[0-9]*/fd/*")
	return listErr == nil && globErr == nil && slices.ContainsFunc(found, func(file string) bool {
		target, err := os.Readlink(file)
		return err == nil && (listeners[target] || strings.HasSuffix(target, "/nfsd.export/channel"))
	})
}
