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

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// Node is a worker: a network and mount namespace.
type Node struct {
	IPv4, IPv6 netip.Addr

	shell  *shell
	pid    string
	cable  string // the storage host's end of it
	folder string
	mounts int
}

func (w *World) newNode(number int) *Node {
	w.t.Helper()
	n := &Node{
		IPv4:   netip.MustParseAddr(fmt.Sprintf("10.78.0.1%d", number)),
		IPv6:   netip.MustParseAddr(fmt.Sprintf("fd78::1%d", number)),
		shell:  w.shell,
		folder: w.t.TempDir(),
	}
	pid, err := w.shell.start("unshare", "--net", "--mount", "--uts", "--propagation", "private",
		"sh", "-c", `hostname "$0"; exec sleep infinity`, fmt.Sprintf("nfstest-%d", number))
	assert.NilError(w.t, err)
	w.t.Cleanup(func() { assert.Check(w.t, w.shell.stop(pid)) })
	eventually(w.t, "the node has no namespaces yet", func() bool {
		comm, err := os.ReadFile("/proc/" + pid + "/comm")
		return err == nil && string(comm) == "sleep\n"
	})
	n.pid = pid

	cable := fmt.Sprintf("nfstest%d", number)
	n.cable = cable
	// A fixed hardware address, so that nobody's neighbour table is out of date.
	w.Run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0",
		"address", fmt.Sprintf("02:78:00:00:00:0%d", number), "netns", n.pid)
	w.t.Cleanup(func() { w.Run("ip", "link", "delete", cable) })
	w.Run("ip", "link", "set", cable, "master", bridge, "up")
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"address", "add", n.IPv4.String() + "/24", "dev", "eth0"},
		{"address", "add", n.IPv6.String() + "/64", "dev", "eth0", "nodad"},
		{"link", "set", "eth0", "up"},
	} {
		_, err := n.run(append([]string{"ip"}, args...)...)
		assert.NilError(w.t, err)
	}
	return n
}

// run runs a program on the node.
func (n *Node) run(args ...string) (string, error) {
	return n.shell.run(n.enter(args)...)
}

// start starts a program on the node and returns its process ID.
func (n *Node) start(args ...string) (pid string, err error) { return n.shell.start(n.enter(args)...) }

func (n *Node) enter(args []string) []string {
	return append([]string{"nsenter", "--target", n.pid, "--net", "--mount", "--uts", "--wdns=/", "--"}, args...)
}

// Mount mounts an export from the address family of its client, until the test
// ends, and returns where the test finds it.
func (n *Node) Mount(t *testing.T, export nfs.Export, options ...string) string {
	t.Helper()
	at, err := n.TryMount(t, export.Path, export.Client.Is6(), options...)
	assert.NilError(t, err)
	return at
}

// TryMount mounts a path of the server. Nothing is cached on attributes and
// names, so that the server is asked.
func (n *Node) TryMount(t *testing.T, path string, ipv6 bool, options ...string) (string, error) {
	t.Helper()
	n.mounts++
	at := filepath.Join(n.folder, fmt.Sprint("mount", n.mounts))
	assert.NilError(t, os.Mkdir(at, 0o755))
	server := serverIPv4
	if ipv6 {
		server = "[" + serverIPv6 + "]"
	}
	options = append([]string{"noac", "lookupcache=none"}, options...)
	if !slices.ContainsFunc(options, func(option string) bool { return strings.HasPrefix(option, "vers=") }) {
		options = append(options, "vers=4.2")
	}
	_, err := n.run("timeout", "20", "mount", "-t", "nfs", "-o", strings.Join(options, ","), server+":"+path, at)
	if err != nil {
		return "", err
	}
	t.Cleanup(func() {
		_, err := n.run("umount", "-f", "-l", at)
		assert.Check(t, err)
	})
	return n.Path(at), nil
}

// Path is where the test finds what the node has at path.
func (n *Node) Path(path string) string { return "/proc/" + n.pid + "/root" + path }

// inside undoes Path.
func (n *Node) inside(path string) string { return strings.TrimPrefix(path, "/proc/"+n.pid+"/root") }
