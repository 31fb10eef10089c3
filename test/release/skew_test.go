//go:build lab

package release

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/system"
)

// Agent and cluster may be one version apart, in both directions. The agent is upgraded first, then
// the cluster, and then the agent is downgraded. At each step, volumes are created, used and
// deleted. One volume is in use all the time: different versions attach and detach it.
func TestOneVersionApart(t *testing.T) {
	lab.Require(t)
	archive, now := os.Getenv("BNC_PREVIOUS"), os.Getenv("BNC_BIN")
	assert.Assert(t, archive != "", "BNC_PREVIOUS names what previous.sh has built: run make release-test")
	former := filepath.Join(filepath.Dir(archive), "bin")
	t.Setenv("BNC_BIN", former)
	s := system.New(t, system.Options{Lab: lab.Options{Nodes: 1}})
	a := apart{t, s, s.Nodes[0]}
	kept := a.attached(a.created("kept", 64<<20, nil))
	a.writes(kept, "former")
	formerly := a.version()

	a.upgrade(now, s.Agent)
	current := a.version()
	assert.Assert(t, formerly != current)
	a.writes(kept, "agent of now")
	a.works("former-cluster")

	a.upgrade(now, s.Controller, a.node.Driver)
	a.writes(kept, "all of now")
	newer := a.attached(a.created("newer", 64<<20, nil))
	a.writes(newer, "agent of now")

	a.upgrade(former, s.Agent)
	assert.Equal(t, a.version(), formerly)
	a.writes(kept, "agent of former")
	a.works("former-agent")
	a.refusesNewerReference(newer)
	a.upgrade(now, s.Agent)
	a.writes(newer, "agent of now again")
	assert.Equal(t, a.shell(newer, `cat "$V/log"`), "agent of now\nagent of former\nagent of former\nagent of now again")
	assert.NilError(t, newer.Detach(t.Context()))
	assert.NilError(t, s.DeleteVolume(t.Context(), newer.Volume.GetVolumeId()))

	assert.Equal(t, a.shell(kept, `cat "$V/log"`), "former\nagent of now\nall of now\nagent of former")
	assert.NilError(t, kept.Detach(t.Context()))
	assert.NilError(t, s.DeleteVolume(t.Context(), kept.Volume.GetVolumeId()))
}

// apart is a system whose components have different versions.
type apart struct {
	t    *testing.T
	s    *system.System
	node *system.Node
}

// upgrade replaces programs, like an installer and a rollout of the chart.
func (a apart) upgrade(programs string, daemons ...*system.Daemon) {
	a.t.Helper()
	for _, d := range daemons {
		assert.NilError(a.t, d.Stop())
		d.SetPrograms(programs)
		assert.NilError(a.t, d.Start())
	}
}

// refusesNewerReference tests the downgrade. The former agent does not know the attachment's file
// system ID, and must not export the volume with another one. It quarantines the volume, leaves the
// mount as it is, and changes nothing on disk.
func (a apart) refusesNewerReference(v *system.Attachment) {
	a.t.Helper()
	clients := filepath.Join(a.s.Lab.Pool, system.Tenant, "newer", "clients")
	before, err := a.s.Lab.Storage.Run("sh", "-c", "cd "+clients+" && sha256sum *")
	assert.NilError(a.t, err)
	a.writes(v, "agent of former")
	detail, err := a.s.API.GetVolume(a.t.Context(), "newer")
	assert.NilError(a.t, err)
	assert.Assert(a.t, detail.Health != nil)
	assert.Assert(a.t, is.Contains(fmt.Sprint(detail.Health.Conditions), "is not the reference that its name says"))
	assert.Assert(a.t, v.ControllerPublish(a.t.Context()) != nil)
	assert.Assert(a.t, v.ControllerUnpublish(a.t.Context()) != nil)
	a.writes(v, "agent of former")
	after, err := a.s.Lab.Storage.Run("sh", "-c", "cd "+clients+" && sha256sum *")
	assert.NilError(a.t, err)
	assert.Equal(a.t, after, before)
}

// version returns that of the agent.
func (a apart) version() string {
	a.t.Helper()
	health, err := a.s.API.Health(a.t.Context())
	assert.NilError(a.t, err)
	return health.Version
}

// works tests the life of a volume.
func (a apart) works(name string) {
	a.t.Helper()
	v := a.attached(a.created(name, 64<<20, nil))
	a.writes(v, name)
	onPool, err := a.s.Lab.Storage.Run("cat", filepath.Join(a.s.Lab.Pool, system.Tenant, name, "data/log"))
	assert.NilError(a.t, err)
	assert.Equal(a.t, onPool, name)

	id := v.Volume.GetVolumeId()
	_, err = a.s.CSI.ControllerExpandVolume(a.t.Context(), &csi.ControllerExpandVolumeRequest{VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: 128 << 20}})
	assert.NilError(a.t, err)
	_, total, err := v.Usage(a.t.Context())
	assert.NilError(a.t, err)
	assert.Equal(a.t, total, int64(128<<20))

	answer, err := a.s.CSI.CreateSnapshot(a.t.Context(), &csi.CreateSnapshotRequest{SourceVolumeId: id, Name: name + "-snapshot"})
	assert.NilError(a.t, err)
	snapshot := answer.GetSnapshot().GetSnapshotId()
	a.writes(v, "later")
	restored := a.attached(a.created(name+"-restored", 128<<20, &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
		Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: snapshot},
	}}))
	assert.Equal(a.t, a.shell(restored, `cat "$V/log"`), name)

	for _, used := range []*system.Attachment{restored, v} {
		assert.NilError(a.t, used.Detach(a.t.Context()))
		assert.NilError(a.t, a.s.DeleteVolume(a.t.Context(), used.Volume.GetVolumeId()))
	}
	_, err = a.s.CSI.DeleteSnapshot(a.t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: snapshot})
	assert.NilError(a.t, err)
	left, err := a.s.Lab.Storage.Run("ls", filepath.Join(a.s.Lab.Pool, system.Tenant), filepath.Join(a.s.Lab.Pool, system.Tenant, "snapshots"))
	assert.NilError(a.t, err)
	assert.Assert(a.t, !strings.Contains(left, name), left)
}

func (a apart) created(name string, size int64, from *csi.VolumeContentSource) *csi.Volume {
	a.t.Helper()
	v, err := a.s.CreateVolume(a.t.Context(), name, size, from)
	assert.NilError(a.t, err)
	return v
}

func (a apart) attached(v *csi.Volume) *system.Attachment {
	a.t.Helper()
	attachment, err := a.s.Attach(a.t.Context(), a.node, v, system.AttachOptions{})
	assert.NilError(a.t, err)
	assert.Assert(a.t, is.Contains(a.shell(attachment, `findmnt -no FSTYPE --target "$V"`), "nfs4"))
	return attachment
}

// writes writes a line through NFS to the disk.
func (a apart) writes(v *system.Attachment, line string) {
	a.t.Helper()
	a.shell(v, fmt.Sprintf(`echo %q >> "$V/log"; sync "$V/log"`, line))
}

func (a apart) shell(v *system.Attachment, script string) string {
	a.t.Helper()
	out, err := v.Shell(script)
	assert.NilError(a.t, err)
	return out
}
