package lab_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
)

// export creates a subvolume in the pool and exports it to both addresses of the nodes.
func export(t *testing.T, l *lab.Lab, name string) string {
	t.Helper()
	dir := filepath.Join(l.Pool, name)
	run(t, l.Storage, "btrfs", "subvolume", "create", dir)
	fsid := run(t, l.Storage, "cat", "/proc/sys/kernel/random/uuid")
	for _, n := range l.Nodes {
		for _, client := range []string{n.IP.String(), fmt.Sprintf("[%s]", n.IP6)} {
			run(t, l.Storage, "exportfs", "-o", "rw,no_root_squash,no_subtree_check,fsid="+fsid, client+":"+dir)
		}
	}
	return dir
}

func run(t *testing.T, h *lab.Host, name string, args ...string) string {
	t.Helper()
	out, err := h.Run(name, args...)
	assert.NilError(t, err)
	return out
}

func mount(t *testing.T, n *lab.Host, server, dir string) string {
	t.Helper()
	at := t.TempDir()
	begin := time.Now()
	run(t, n, "mount", "-t", "nfs", "-o", "vers=4.2", server+":"+dir, at)
	t.Logf("%s: mount from %s: %v", n.Name, server, time.Since(begin).Round(time.Millisecond))
	return at
}

func TestTwoNodesShareAnExport(t *testing.T) {
	begin := time.Now()
	l := lab.New(t, lab.Options{Nodes: 2})
	t.Logf("lab.New: %v", time.Since(begin).Round(time.Millisecond))
	dir := export(t, l, "shared")
	one := mount(t, l.Nodes[0], l.Storage.IP.String(), dir)
	two := mount(t, l.Nodes[1], fmt.Sprintf("[%s]", l.Storage.IP6), dir)

	run(t, l.Nodes[0], "sh", "-c", "echo hello > "+one+"/greeting")
	assert.Equal(t, run(t, l.Nodes[1], "cat", two+"/greeting"), "hello")
	seen, err := os.ReadFile(dir + "/greeting")
	assert.NilError(t, err)
	assert.Equal(t, string(seen), "hello\n")
	seen, err = os.ReadFile(l.Nodes[1].Path(two + "/greeting"))
	assert.NilError(t, err)
	assert.Equal(t, string(seen), "hello\n")
	_, err = os.Stat(one + "/greeting")
	assert.ErrorIs(t, err, os.ErrNotExist) // the test's mount namespace does not have the mount
}
