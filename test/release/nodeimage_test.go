//go:build lab

package release

import (
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/system"
)

// The node's image mounts a real export with only its content: the driver, mount.nfs, mount and
// umount, and their libraries.
func TestNodeImageMountsNFS(t *testing.T) {
	lab.Require(t)
	i := open(t, "node")
	s := system.New(t, system.Options{Lab: lab.Options{Nodes: 1}, NodeRoot: i.root})
	node := s.Nodes[0]
	v, err := s.CreateVolume(t.Context(), "v", 64<<20, nil)
	assert.NilError(t, err)
	a := s.NewAttachment(node, v, system.AttachOptions{})
	assert.NilError(t, a.ControllerPublish(t.Context()))

	// Without the image's mount.nfs the mount fails: the driver does not use the host's.
	helper := filepath.Join(i.root, "sbin/mount.nfs")
	assert.NilError(t, os.Rename(helper, helper+".away"))
	assert.Assert(t, a.Stage(t.Context()) != nil)
	assert.NilError(t, os.Rename(helper+".away", helper))

	assert.NilError(t, a.Stage(t.Context()))
	assert.NilError(t, a.Publish(t.Context()))
	sh := func(script string) string {
		out, err := a.Shell(script)
		assert.NilError(t, err)
		return out
	}
	assert.Assert(t, is.Contains(sh(`findmnt -no FSTYPE,SOURCE,OPTIONS --target "$V"`), "nfs4"))
	sh(`echo written > "$V/file"; sync "$V/file"`)
	onPool, err := s.Lab.Storage.Run("cat", filepath.Join(s.Lab.Pool, system.Tenant, "v", "data/file"))
	assert.NilError(t, err)
	assert.Equal(t, onPool, "written")
	_, total, err := a.Usage(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, total, int64(64<<20))

	// The image is replaced during the mount, as in an upgrade of the chart. The pod continues, and
	// the next driver unmounts the volume.
	assert.NilError(t, node.Driver.Stop())
	assert.Equal(t, sh(`cat "$V/file"`), "written")
	assert.NilError(t, node.Driver.Start())
	assert.NilError(t, a.Detach(t.Context()))
	mounts, err := node.Run("cat", "/proc/self/mountinfo")
	assert.NilError(t, err)
	assert.Assert(t, !is.Contains(mounts, a.Staging)().Success(), mounts)
}
