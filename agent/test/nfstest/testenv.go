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

// TestEnv is the lab with the test as the storage host, and two worker nodes. The engine runs in
// the test process.
type TestEnv struct {
	Lab    *lab.Lab
	Base   string // a btrfs filesystem
	Folder string // for other files
	Nodes  []*Node

	t *testing.T
}

// NewTestEnv creates a test environment until the test ends. The NFS server is stopped, but the
// daemons that it needs run.
func NewTestEnv(t *testing.T) *TestEnv {
	t.Helper()
	env := &TestEnv{Folder: t.TempDir(), t: t}
	env.Lab = lab.New(t, lab.Options{
		Nodes: 2, StorageInTest: true, NFSStopped: true, PoolDir: "/srv/nfstest pool",
		// btrfs cleans deleted subvolumes after a commit, by default every 30 s.
		PoolMountOptions: "commit=1",
	})
	env.Base = env.Lab.Pool
	for _, host := range env.Lab.Nodes {
		env.Nodes = append(env.Nodes, &Node{
			Host: host, IPv4: host.IP, IPv6: host.IP6, server: env.Lab.Storage, folder: t.TempDir(),
		})
	}
	env.StartDaemon("nfsdcld", "--foreground")
	eventually(t, "nfsdcld runs", func() bool {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", env.Lab.Storage.DaemonPID("nfsdcld")))
		return err == nil && string(comm) == "nfsdcld\n"
	})
	return env
}

// Run runs a program of the storage host and returns its output.
func (env *TestEnv) Run(name string, args ...string) string {
	env.t.Helper()
	out, err := env.Lab.Storage.Run(name, args...)
	assert.NilError(env.t, err)
	return out
}

// StartDaemon starts a program that stays in the foreground.
func (env *TestEnv) StartDaemon(name string, args ...string) {
	env.t.Helper()
	assert.NilError(env.t, env.Lab.Storage.StartDaemon(name, args...))
}

// StopDaemon kills a daemon.
func (env *TestEnv) StopDaemon(name string) { env.Lab.Storage.StopDaemon(name) }

// StartMountd starts rpc.mountd. StopDaemon stops it.
func (env *TestEnv) StartMountd() {
	env.t.Helper()
	assert.NilError(env.t, env.Lab.Storage.StartMountd())
}

// Threads returns the number of threads of the NFS server.
func (env *TestEnv) Threads() string {
	env.t.Helper()
	text, err := os.ReadFile("/proc/fs/nfsd/threads")
	assert.NilError(env.t, err)
	return strings.TrimSpace(string(text))
}

// StopThreads stops the NFS server.
func (env *TestEnv) StopThreads() {
	env.t.Helper()
	assert.Check(env.t, os.WriteFile("/proc/fs/nfsd/threads", []byte("0\n"), 0))
}

// SetTimes makes the grace period short. The server must be stopped.
func (env *TestEnv) SetTimes() {
	env.t.Helper()
	assert.NilError(env.t, env.Lab.SetNFSTimes())
}

// Volume creates a subvolume, and returns its export to the client as one attachment.
func (env *TestEnv) Volume(name string, client netip.Addr) nfs.Export {
	env.t.Helper()
	path := filepath.Join(env.Base, "tenant", name, "data")
	if _, err := os.Stat(path); err != nil {
		assert.NilError(env.t, os.MkdirAll(filepath.Dir(path), 0o755))
		env.Run("btrfs", "subvolume", "create", path)
	}
	return nfs.Export{Path: path, FSID: uuid.New(), Client: client}
}

// Directory creates a directory instead of a subvolume, which is faster, for exports that are not
// mounted.
func (env *TestEnv) Directory(name string, client netip.Addr) nfs.Export {
	env.t.Helper()
	path := filepath.Join(env.Base, "tenant", name, "data")
	assert.NilError(env.t, os.MkdirAll(path, 0o755))
	return nfs.Export{Path: path, FSID: uuid.NewSHA1(uuid.Nil, []byte(path)), Client: client}
}

// DeleteVolume deletes the subvolume and its parent directories.
func (env *TestEnv) DeleteVolume(export nfs.Export) {
	env.t.Helper()
	env.Run("btrfs", "subvolume", "delete", export.Path)
	assert.NilError(env.t, os.Remove(filepath.Dir(export.Path)))
}

// Answered reports whether a process waits for the kernel's upcalls.
func (env *TestEnv) Answered() bool {
	listeners, listErr := nfsd.Listeners()
	found, globErr := filepath.Glob("/proc/[0-9]*/fd/*")
	return listErr == nil && globErr == nil && slices.ContainsFunc(found, func(file string) bool {
		target, err := os.Readlink(file)
		return err == nil && (listeners[target] || strings.HasSuffix(target, "/nfsd.export/channel"))
	})
}
