//go:build lab

package system_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/system"
)

// State of an agent of 0.9 to 0.12 for a volume that a node has, %[1]s its directory, %[2]s the
// node, and for a snapshot of it.
const (
	olderVolume = `{"name": "pvc-1", "path": "%[1]s", "size_bytes": 67108864, "nocow": false, "compression": "zstd", "quota_bytes": 67108864, "used_bytes": 16384,
"uid": 1000, "gid": 2000, "mode": "2770", "labels": {"created-by": "k8s"}, "clients": [{"ip": "%[2]s", "labels": {"created-by": "csi"}, "created_at": "2026-01-02T03:04:05Z"}],
"created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-02T00:00:00Z", "last_attach_at": "2026-01-02T03:04:05Z"}`
	olderSnapshot = `{"name": "snap-1", "volume": "pvc-1", "path": "%[1]s", "size_bytes": 67108864, "used_bytes": 1, "readonly": true,
"created_at": "2026-01-03T00:00:00Z", "updated_at": "2026-01-03T00:00:00Z"}`
)

// PersistentVolumes of the older driver keep working on a migrated pool. They can be attached,
// read, expanded, restored from and deleted with their handle and attributes. The older agent
// exported the directory above the data. This export is revoked.
func TestOlderVolumes(t *testing.T) {
	s := system.New(t, system.Options{Lab: lab.Options{Nodes: 1}, AgentEnv: []string{"AGENT_NFS_EXPORTER=exportfs"}})
	assert.NilError(t, s.Agent.Stop())
	node := s.Nodes[0]
	dir := filepath.Join(s.Lab.Pool, system.Tenant, "pvc-1")
	snapshotDir := filepath.Join(s.Lab.Pool, system.Tenant, "snapshots", "snap-1")
	onStorage := func(script string) string {
		t.Helper()
		out, err := s.Lab.Storage.Run("sh", "-ec", script)
		assert.NilError(t, err)
		return out
	}
	onStorage(fmt.Sprintf(`mkdir -p %[1]s %[2]s
btrfs -q subvolume create %[1]s/data
echo precious > %[1]s/data/file
chown -R 1000:2000 %[1]s/data
chmod 2770 %[1]s/data
btrfs -q subvolume snapshot -r %[1]s/data %[2]s/data`, dir, snapshotDir))
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "metadata.json"), fmt.Appendf(nil, olderVolume, dir, node.IP), 0o644))
	assert.NilError(t, os.WriteFile(filepath.Join(snapshotDir, "metadata.json"), fmt.Appendf(nil, olderSnapshot, snapshotDir), 0o644))
	onStorage(fmt.Sprintf("chattr +i %[1]s/metadata.json; exportfs -o rw,no_root_squash,no_subtree_check,fsid=77 %[2]s:%[1]s", dir, node.IP))
	old := t.TempDir()
	_, err := node.Run("mount", "-t", "nfs4", "-o", "vers=4.2", s.Lab.Storage.IP.String()+":"+dir, old)
	assert.NilError(t, err)
	defer func() {
		_, err := node.Run("umount", "-l", old)
		assert.Check(t, err)
	}()
	out, err := node.Run("cat", old+"/data/file")
	assert.NilError(t, err)
	assert.Equal(t, out, "precious")

	migrate := fmt.Sprintf("AGENT_BASE_PATH=%s AGENT_TENANTS=%s:%s %s/btrfs-nfs-agent migrate --env-file /none", s.Lab.Pool, system.Tenant, system.Token, os.Getenv("BNC_BIN"))
	assert.Assert(t, is.Contains(onStorage(migrate+" --dry-run"), "2 to take over, 0 to be left alone"))
	onStorage(migrate + " --yes")
	assert.NilError(t, s.Agent.Start())
	_, err = node.Run("sh", "-c", "echo intruder > "+old+"/metadata.json")
	assert.ErrorContains(t, err, "tale file handle")

	v := &csi.Volume{VolumeId: s.Class.Name + "|pvc-1", CapacityBytes: 64 * mib, VolumeContext: map[string]string{
		"agentURL": s.AgentURL(), "nfsServer": s.Lab.Storage.IP.String(), "storage.kubernetes.io/csiProvisionerIdentity": "1700000000000-1234-btrfs-nfs-csi",
	}}
	a := system.Attach(t, s, 0, v, system.AttachOptions{})
	assert.Equal(t, system.Shell(t, a, `cat "$V/file"; stat -c %u:%g:%a "$V"`), "precious\n1000:2000:2770")
	system.Shell(t, a, `echo more >> "$V/file"`)
	_, total, err := a.Usage(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, total, 64*mib)
	_, err = s.CSI.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{VolumeId: v.VolumeId, CapacityRange: &csi.CapacityRange{RequiredBytes: 128 * mib}})
	assert.NilError(t, err)
	restored, err := s.CreateVolume(t.Context(), "restored", 64*mib, &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
		Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: s.Class.Name + "|snap-1"},
	}})
	assert.NilError(t, err)
	assert.Equal(t, system.Shell(t, system.Attach(t, s, 0, restored, system.AttachOptions{}), `cat "$V/file"`), "precious")

	assert.Equal(t, status.Code(s.DeleteVolume(t.Context(), v.VolumeId)), codes.FailedPrecondition)
	assert.NilError(t, a.Detach(t.Context()))
	// The older agent's export for the node is also gone. Otherwise the deletion would still be
	// refused.
	assert.NilError(t, s.DeleteVolume(t.Context(), v.VolumeId))
	_, err = os.Stat(dir)
	assert.Assert(t, os.IsNotExist(err), "%v", err)
	_, err = s.CSI.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: s.Class.Name + "|snap-1"})
	assert.NilError(t, err)
}
