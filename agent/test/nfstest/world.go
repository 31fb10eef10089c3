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

// World is the lab with the test itself as the storage host, in whose process the
// engine runs, and two worker nodes.
type World struct {
	Lab    *lab.Lab
	Base   string // a btrfs filesystem
	Folder string // for other files
	Nodes  []*Node

	t *testing.T
}

// NewWorld makes a world, without an NFS server but with what one needs, until
// the test ends.
func NewWorld(t *testing.T) *World {
	t.Helper()
	w := &World{Folder: t.TempDir(), t: t}
	w.Lab = lab.New(t, lab.Options{
		Nodes: 2, StorageInTest: true, NFSStopped: true, PoolDir: "/srv/nfstest pool",
		// Deleted subvolumes are cleaned after a commit; every 30 s by default.
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

// StopDaemon kills it.
func (w *World) StopDaemon(name string) { w.Lab.Storage.StopDaemon(name) }

// StartMountd starts rpc.mountd, which is stopped like another daemon.
func (w *World) StartMountd() {
	w.t.Helper()
	assert.NilError(w.t, w.Lab.Storage.StartMountd())
}

// Threads is how many threads the NFS server has.
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

// SetTimes makes the grace period short. The server must not run.
func (w *World) SetTimes() {
	w.t.Helper()
	assert.NilError(w.t, w.Lab.SetNFSTimes())
}

// Volume makes a subvolume, and the export of it to the client as one attachment.
func (w *World) Volume(name string, client netip.Addr) nfs.Export {
	w.t.Helper()
	path := filepath.Join(w.Base, "tenant", name, "data")
	if _, err := os.Stat(path); err != nil {
		assert.NilError(w.t, os.MkdirAll(filepath.Dir(path), 0o755))
		w.Run("btrfs", "subvolume", "create", path)
	}
	return nfs.Export{Path: path, FSID: uuid.New(), Client: client}
}

// Directory makes a directory in place of a subvolume, which is faster for
// exports that nobody mounts.
func (w *World) Directory(name string, client netip.Addr) nfs.Export {
	w.t.Helper()
	path := filepath.Join(w.Base, "tenant", name, "data")
	assert.NilError(w.t, os.MkdirAll(path, 0o755))
	return nfs.Export{Path: path, FSID: uuid.NewSHA1(uuid.Nil, []byte(path)), Client: client}
}

// DeleteVolume deletes the subvolume and the directories around it.
func (w *World) DeleteVolume(export nfs.Export) {
	w.t.Helper()
	w.Run("btrfs", "subvolume", "delete", export.Path)
	assert.NilError(w.t, os.Remove(filepath.Dir(export.Path)))
}

// Answered reports whether a process waits for the kernel's questions.
func (w *World) Answered() bool {
	listeners, listErr := nfsd.Listeners()
	found, globErr := filepath.Glob("/proc/[0-9]*/fd/*")
	return listErr == nil && globErr == nil && slices.ContainsFunc(found, func(file string) bool {
		target, err := os.Readlink(file)
		return err == nil && (listeners[target] || strings.HasSuffix(target, "/nfsd.export/channel"))
	})
}
