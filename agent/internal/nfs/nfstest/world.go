//go:build lab

package nfstest

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
)

// World is a storage host, which is the machine of the test itself, and two
// worker nodes, each in namespaces of its own.
type World struct {
	Base   string // a btrfs filesystem
	Folder string // for other files
	Nodes  []*Node

	t       *testing.T
	shell   *shell
	daemons map[string]string // process IDs by name
}

const (
	serverIPv4 = "10.78.0.1"
	serverIPv6 = "fd78::1"
	bridge     = "nfstest0"
)

// NewWorld makes a world, without an NFS server, until the test ends.
func NewWorld(t *testing.T) *World {
	t.Helper()
	requireLab(t)
	w := &World{Base: "/srv/nfstest pool", Folder: t.TempDir(), t: t, shell: startShell(t), daemons: map[string]string{}}
	w.makeNetwork()
	for i := range 2 {
		w.Nodes = append(w.Nodes, w.newNode(i+1))
	}
	w.makePool()
	w.makeServerState()
	return w
}

// requireLab skips the test where there is no NFS server to test with, unless
// the run says that there has to be.
func requireLab(t *testing.T) {
	t.Helper()
	_ = exec.Command("modprobe", "-a", "nfsd", "nfsv4", "loop", "veth", "bridge").Run() // built in, or missed below
	known, err := os.ReadFile("/proc/filesystems")
	assert.NilError(t, err)
	if os.Getuid() == 0 && strings.Contains(string(known), "\tnfsd\n") {
		return
	}
	const hint = `needs root and a kernel with NFS: go test -tags lab -exec "$PWD/bin/lab exec"`
	if os.Getenv("BNC_LAB_REQUIRED") != "" {
		t.Fatal(hint)
	}
	t.Skip(hint)
}

func (w *World) makeNetwork() {
	w.Run("ip", "link", "add", bridge, "type", "bridge")
	w.t.Cleanup(func() { w.Run("ip", "link", "delete", bridge) })
	w.Run("ip", "address", "add", serverIPv4+"/24", "dev", bridge)
	w.Run("ip", "address", "add", serverIPv6+"/64", "dev", bridge, "nodad")
	w.Run("ip", "link", "set", bridge, "up")
	// A cable that is taken off the bridge must lead nowhere. By default the kernel answers for all of its addresses on
	// every interface (arp_ignore in Documentation/networking/ip-sysctl.rst), and would go on receiving over it.
	assert.NilError(w.t, os.WriteFile("/proc/sys/net/ipv4/conf/all/arp_ignore", []byte("1\n"), 0))
	w.Run("ip", "link", "set", "lo", "up")
}

func (w *World) makePool() {
	image := filepath.Join(w.t.TempDir(), "pool.img")
	assert.NilError(w.t, os.WriteFile(image, nil, 0o600))
	assert.NilError(w.t, os.Truncate(image, 1<<30))
	w.Run("mkfs.btrfs", "-q", image)
	assert.NilError(w.t, os.MkdirAll(w.Base, 0o755))
	// Deleted subvolumes are cleaned after a commit; every 30 s by default.
	w.Run("mount", "-o", "loop,commit=1", image, w.Base)
	w.t.Cleanup(func() {
		// The kernel lets go of exports and of dead clients' files in its own time.
		poll.WaitOn(w.t, func(poll.LogT) poll.Result {
			if err := unix.Unmount(w.Base, 0); err != nil && !errors.Is(err, unix.EINVAL) {
				return poll.Continue("unmounting the pool: %v", err)
			}
			return poll.Success()
		}, poll.WithTimeout(20*time.Second))
	})
}

// makeServerState gives nfs-utils an empty state of its own.
func (w *World) makeServerState() {
	for _, m := range []struct{ kind, at string }{
		{"tmpfs", "/var/lib/nfs"}, {"tmpfs", "/etc/exports.d"}, {"tmpfs", "/etc/nfs.conf.d"}, {"nfsd", "/proc/fs/nfsd"},
		{"rpc_pipefs", "/var/lib/nfs/rpc_pipefs"}, {"rpc_pipefs", "/run/rpc_pipefs"},
	} {
		assert.NilError(w.t, os.MkdirAll(m.at, 0o755))
		w.Run("mount", "-t", m.kind, m.kind, m.at)
		w.t.Cleanup(func() { assert.Check(w.t, unix.Unmount(m.at, unix.MNT_DETACH)) })
	}
	assert.NilError(w.t, os.MkdirAll("/var/lib/nfs/nfsdcld", 0o700))
	assert.NilError(w.t, os.WriteFile("/var/lib/nfs/etab", nil, 0o644))
	// As install.sh does. After an rpc.mountd that manages groups, which is Debian's default, the kernel waits half a minute for another,
	// and the next test's clients with it.
	assert.NilError(w.t, os.WriteFile("/etc/nfs.conf.d/btrfs-nfs-csi.conf", []byte("[mountd]\nmanage-gids=n\nno-netlink=y\n"), 0o644))
	w.t.Cleanup(func() {
		w.StopThreads()
		for name := range w.daemons {
			w.StopDaemon(name)
		}
		for _, cache := range []string{"auth.unix.ip", "nfsd.export", "nfsd.fh"} {
			assert.Check(w.t, os.WriteFile("/proc/net/rpc/"+cache+"/flush", []byte("1\n"), 0))
		}
	})
	w.StartDaemon("nfsdcld", "--foreground")
}

// Run runs a program of the storage host and returns its output.
func (w *World) Run(name string, args ...string) string {
	w.t.Helper()
	out, err := w.shell.run(append([]string{name}, args...)...)
	assert.NilError(w.t, err)
	return out
}

// StartDaemon starts a program that stays in the foreground.
func (w *World) StartDaemon(name string, args ...string) {
	w.t.Helper()
	pid, err := w.shell.start(append([]string{name}, args...)...)
	assert.NilError(w.t, err)
	w.daemons[name] = pid
}

// StopDaemon kills it.
func (w *World) StopDaemon(name string) {
	assert.Check(w.t, w.shell.stop(w.daemons[name]))
	delete(w.daemons, name)
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
	for _, file := range []string{"nfsv4leasetime", "nfsv4gracetime"} {
		assert.NilError(w.t, os.WriteFile("/proc/fs/nfsd/"+file, []byte("10\n"), 0))
	}
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

// Answered reports whether some process waits for the kernel's questions.
func (w *World) Answered() bool {
	listeners, listErr := nfsd.Listeners()
	found, globErr := filepath.Glob("/proc/[0-9]*/fd/*")
	return listErr == nil && globErr == nil && slices.ContainsFunc(found, func(file string) bool {
		target, err := os.Readlink(file)
		return err == nil && (listeners[target] || strings.HasSuffix(target, "/nfsd.export/channel"))
	})
}
