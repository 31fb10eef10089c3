//go:build release

package release

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// debian returns a Debian root, which debootstrap creates once per machine.
func debian(t *testing.T) string {
	t.Helper()
	root := debianRoot(t)
	if _, err := os.Stat(root); err == nil {
		return root
	}
	assert.NilError(t, os.MkdirAll(filepath.Dir(root), 0o755))
	making := root + ".new"
	assert.NilError(t, os.RemoveAll(making))
	command(t, "debootstrap", append(recipe(packages), making)...)
	assert.NilError(t, os.Rename(making, root))
	return root
}

// standIn replaces the NFS server, which this machine's kernel may not support. It records the host
// name, which is the scope of a real server. The lab tests real NFS.
const standIn = "[Unit]\nDescription=stand-in for the NFS server\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'hostname >/run/name-of-nfs-server'\n[Install]\nWantedBy=multi-user.target\n"

// bootHere boots Debian on this machine's kernel, with bind mounts of directories. Its writes are
// discarded at the end.
func bootHere(t *testing.T, binds ...string) *host {
	t.Helper()
	unit := filepath.Join(t.TempDir(), "nfs-server.service")
	assert.NilError(t, os.WriteFile(unit, []byte(standIn), 0o644))
	options := []string{"--volatile=overlay", "--bind-ro=" + unit + ":/etc/systemd/system/nfs-server.service"}
	for _, bind := range binds {
		options = append(options, "--bind-ro="+bind)
	}
	return boot(t, debian(t), options...)
}

// A cached root has the packages of the present list.
func TestDebianHasItsPackages(t *testing.T) {
	root := debian(t)
	for name := range strings.SplitSeq(packages, ",") {
		state := command(t, "dpkg-query", "--admindir="+root+"/var/lib/dpkg", "--show", "--showformat=${Status}", name)
		assert.Check(t, is.Equal(state, "install ok installed"), name)
	}
}

func TestDebianOfAnotherRecipeIsAnother(t *testing.T) {
	one := rootName(recipe("a,b"))
	assert.Equal(t, one, rootName(recipe("a,b")))
	assert.Assert(t, one != rootName(recipe("a,b,c")))
	assert.Assert(t, one != rootName(append(recipe("a,b"), "more")))
}
