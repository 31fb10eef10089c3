//go:build lab

package system_test

import (
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/system"
)

func ofGroup(group string, flags ...string) *csi.VolumeCapability {
	capability := system.Shared()
	capability.GetMount().VolumeMountGroup, capability.GetMount().MountFlags = group, flags
	return capability
}

// onStorage runs a script in the directory of a volume's data on the storage host.
func onStorage(t *testing.T, s *system.System, volume, script string) string {
	t.Helper()
	out, err := s.Lab.Storage.RunWithin(2*time.Minute, "sh", "-ec", `cd "$0"; `+script, s.Lab.Pool+"/"+system.Tenant+"/"+volume+"/data")
	assert.NilError(t, err, out)
	return out
}

// Each call has less time than the change of the tree takes. The group is still set, even if the
// driver restarts.
func TestFSGroupOfALargeTree(t *testing.T) {
	s := system.New(t, system.Options{Lab: lab.Options{Nodes: 1}, NodeEnv: []string{"DRIVER_GROUP_TIMEOUT=100ms"}})
	v := system.Create(t, s, "v")
	onStorage(t, s, "v", `for d in 1 2 3 4 5 6; do mkdir $d; (cd $d; seq 1 500 | xargs touch); done`)
	a := s.NewAttachment(s.Nodes[0], v, system.AttachOptions{Capability: ofGroup("2000")})
	assert.NilError(t, a.ControllerPublish(t.Context()))
	assert.NilError(t, a.Stage(t.Context()))
	err := a.Publish(t.Context())
	assert.Equal(t, status.Code(err), codes.DeadlineExceeded, "%v", err)
	assert.NilError(t, s.Nodes[0].Driver.Kill())
	assert.NilError(t, s.Nodes[0].Driver.Start())

	// The driver's work without a call: the pod is deleted, and then there is another one.
	err = a.Publish(t.Context())
	assert.Equal(t, status.Code(err), codes.DeadlineExceeded, "%v", err)
	assert.NilError(t, a.Unpublish(t.Context()))
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if err := a.Publish(t.Context()); err != nil {
			assert.Equal(t, status.Code(err), codes.DeadlineExceeded, "%v", err)
			return poll.Continue("%v", err)
		}
		return poll.Success()
	}, poll.WithTimeout(2*time.Minute), poll.WithDelay(50*time.Millisecond))
	assert.Equal(t, onStorage(t, s, "v", `find . ! -gid 2000 | wc -l`), "0")
	assert.NilError(t, a.Detach(t.Context()))
	assertUnmounted(t, a)

	// The volume is unpublished while its group is being set.
	b := s.NewAttachment(s.Nodes[0], v, system.AttachOptions{Capability: ofGroup("3000"), Pod: "b"})
	assert.NilError(t, b.ControllerPublish(t.Context()))
	assert.NilError(t, b.Stage(t.Context()))
	err = b.Publish(t.Context())
	assert.Equal(t, status.Code(err), codes.DeadlineExceeded, "%v", err)
	assert.NilError(t, b.Detach(t.Context()))
	assertUnmounted(t, b)
	assert.Assert(t, !strings.Contains(s.Nodes[0].Driver.Log(), "detaching a volume"), s.Nodes[0].Driver.Tail())
}

func TestFSGroupSkipsSubvolumes(t *testing.T) {
	s := newSystem(t, 1)
	v := system.Create(t, s, "v")
	onStorage(t, s, "v", `mkdir d; echo x >d/f; mkdir -p .snapshots/1; btrfs subvolume snapshot -r . .snapshots/1/snapshot; btrfs subvolume create d/nested; echo x >d/nested/f`)
	skipped := func(a *system.Attachment, names ...string) {
		t.Helper()
		assert.Equal(t, system.Shell(t, a, `stat -c %g "$V" "$V/d" "$V/d/f"`), "2000\n2000\n2000")
		var found []string
		for line := range strings.Lines(s.Nodes[0].Driver.Log()) {
			if strings.Contains(line, "skipped subvolumes") && strings.Contains(line, a.Staging) {
				found = append(found, line)
			}
		}
		assert.Equal(t, len(found), 1, "%q\n%s", found, s.Nodes[0].Driver.Tail())
		for _, name := range names {
			assert.Assert(t, is.Contains(found[0], name))
		}
	}
	skipped(system.Attach(t, s, 0, v, system.AttachOptions{Capability: ofGroup("2000")}), ".snapshots/1/snapshot", "d/nested")
	assert.Equal(t, onStorage(t, s, "v", `stat -c %g d/nested d/nested/f`), "0\n0")

	// A snapshot, and its copies, have empty directories instead of subvolumes.
	onStorage(t, s, "v", `chgrp 0 . d d/f; chmod g-s .`)
	snapshot, err := s.CSI.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: v.VolumeId})
	assert.NilError(t, err)
	c, err := s.CreateVolume(t.Context(), "c", 64<<20, &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
		Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: snapshot.Snapshot.SnapshotId},
	}})
	assert.NilError(t, err)
	skipped(system.Attach(t, s, 0, c, system.AttachOptions{Capability: ofGroup("2000")}), "d/nested")
}

func TestFSGroupWithRootSquash(t *testing.T) {
	s := newSystem(t, 1)
	create := func(name string, properties map[string]string) *csi.Volume {
		parameters := s.ClassParameters()
		parameters["rootSquash"] = "true"
		for key, value := range properties {
			parameters[key] = value
		}
		answer, err := s.CSI.CreateVolume(t.Context(), &csi.CreateVolumeRequest{
			Name: name, Parameters: parameters, CapacityRange: &csi.CapacityRange{RequiredBytes: 64 << 20}, VolumeCapabilities: []*csi.VolumeCapability{system.Shared()},
		})
		assert.NilError(t, err)
		return answer.Volume
	}
	for mode, group := range map[string]string{"2770": "2000", "2777": "2001"} {
		a := system.Attach(t, s, 0, create("v"+mode, map[string]string{"uid": "1000", "gid": group, "mode": mode}), system.AttachOptions{Capability: ofGroup(group)})
		system.Shell(t, a, `setpriv --reuid 1234 --regid 1234 --groups `+group+` sh -c 'echo kept >"$V/f"'`)
		assert.NilError(t, a.Detach(t.Context()))
		assertUnmounted(t, a)
		assert.Equal(t, onStorage(t, s, "v"+mode, `cat f`), "kept")
	}
	// Root cannot even read the volume, but no data is lost.
	assert.Assert(t, !strings.Contains(s.Nodes[0].Driver.Log(), "failed to write all data back"), s.Nodes[0].Driver.Tail())

	for name, properties := range map[string]map[string]string{
		"another-group": {"uid": "1000", "gid": "1000", "mode": "2770"},
		"another-mode":  {"uid": "1000", "gid": "2000", "mode": "0700"},
		"open":          {"uid": "1000", "gid": "1000", "mode": "0777"},
	} {
		a, err := s.Attach(t.Context(), s.Nodes[0], create(name, properties), system.AttachOptions{Capability: ofGroup("2000")})
		assert.Equal(t, status.Code(err), codes.FailedPrecondition, "%s: %v", name, err)
		assert.ErrorContains(t, err, "give it gid 2000 and mode 2770")
		assert.NilError(t, a.Detach(t.Context()))
	}
}

func TestFSGroupOfReadOnlyVolumes(t *testing.T) {
	s := newSystem(t, 1)
	for name, options := range map[string]system.AttachOptions{
		"volume": {ReadOnly: true, Kubelet: ofGroup("2000")}, // readOnly of a PersistentVolume, which the kubelet does not pass on
		"option": {Capability: ofGroup("2000", "ro")},
	} {
		a := system.Attach(t, s, 0, system.Create(t, s, name), options)
		_, err := a.Shell(`echo x >"$V/f"`)
		assert.ErrorContains(t, err, "Read-only", name)
	}
}

// For a PersistentVolume with accessModes [ReadOnlyMany, ReadWriteMany], external-attacher sends
// the widest, the kubelet the first.
func TestThePublishedAccessModeCounts(t *testing.T) {
	s := newSystem(t, 1)
	readers := system.Capability(csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY)
	a := system.Attach(t, s, 0, system.Create(t, s, "v"), system.AttachOptions{Kubelet: readers})
	system.Shell(t, a, `echo x >"$V/f"`)
}
