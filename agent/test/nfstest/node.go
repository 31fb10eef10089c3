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
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
)

// Node is a worker node of the lab that can be cut off and rebooted.
type Node struct {
	*lab.Host
	IPv4, IPv6 netip.Addr

	server *lab.Host
	folder string
	mounts int
}

// Mount mounts an export with the address family of its client, until the test ends. It returns the
// path for the test.
func (n *Node) Mount(t *testing.T, export nfs.Export, options ...string) string {
	t.Helper()
	at, err := n.TryMount(t, export.Path, export.Client.Is6(), options...)
	assert.NilError(t, err)
	return at
}

// TryMount mounts a path of the server without caching of attributes and names, so that the client
// asks the server.
func (n *Node) TryMount(t *testing.T, path string, ipv6 bool, options ...string) (string, error) {
	t.Helper()
	n.mounts++
	at := filepath.Join(n.folder, fmt.Sprint("mount", n.mounts))
	assert.NilError(t, os.Mkdir(at, 0o755))
	server := n.server.IP.String()
	if ipv6 {
		server = "[" + n.server.IP6.String() + "]"
	}
	options = append([]string{"noac", "lookupcache=none"}, options...)
	if !slices.ContainsFunc(options, func(option string) bool { return strings.HasPrefix(option, "vers=") }) {
		options = append(options, "vers=4.2")
	}
	_, err := n.Run("timeout", "20", "mount", "-t", "nfs", "-o", strings.Join(options, ","), server+":"+path, at)
	if err != nil {
		return "", err
	}
	boot := n.PID()
	t.Cleanup(func() {
		if n.PID() != boot {
			return // the mount has ended with a reboot
		}
		_, err := n.Run("umount", "-f", "-l", at)
		assert.Check(t, err)
	})
	return n.Path(at), nil
}

// inside reverts Path.
func (n *Node) inside(path string) string { return strings.TrimPrefix(path, n.Path("")) }
