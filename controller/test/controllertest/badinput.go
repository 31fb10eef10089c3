package controllertest

import (
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"gotest.tools/v3/assert"
)

var badInputTests = []behaviour{
	{"CreateVolume", badCreate},
	{"parameters", badParameters},
	{"empty and missing fields of every other call", badOthers},
}

func badCreate(t *testing.T, b Backend) {
	e := start(t, b)
	mount := func(fsType string) *csi.VolumeCapability {
		c := capability(oneNode)
		c.GetMount().FsType = fsType
		return c
	}
	for name, c := range map[string]struct {
		change func(*csi.CreateVolumeRequest)
		want   string
	}{
		"no name":            {func(r *csi.CreateVolumeRequest) { r.Name = "" }, "name must not be empty"},
		"name too long":      {func(r *csi.CreateVolumeRequest) { r.Name = strings.Repeat("n", 129) }, "name must be at most 128 bytes long, got 129"},
		"no capabilities":    {func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities = nil }, "volume_capabilities must not be empty"},
		"a nil capability":   {func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities = []*csi.VolumeCapability{{}} }, "access_type must be set"},
		"no access mode":     {func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities[0].AccessMode = nil }, "access_mode must be one of"},
		"unknown mode":       {func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities[0].AccessMode.Mode = 99 }, "99"},
		"fault 16: block":    {func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities[0].AccessType = &csi.VolumeCapability_Block{} }, "block access is not supported"},
		"one of two is bad":  {func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities = append(r.VolumeCapabilities, mount("ext4")) }, `volume_capabilities[1]: fs_type must be nfs, nfs4 or empty, got "ext4"`},
		"fs type":            {func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities = []*csi.VolumeCapability{mount("xfs")} }, `got "xfs"`},
		"mutable parameters": {func(r *csi.CreateVolumeRequest) { r.MutableParameters = map[string]string{"x": "y"} }, `mutable parameter "x"`},
		"mount flag": {func(r *csi.CreateVolumeRequest) {
			r.VolumeCapabilities[0].GetMount().MountFlags = []string{"hard", "bg"}
		}, `volume_capabilities[0]: mount_flags: mount option "bg"`},
		"flags in one item": {func(r *csi.CreateVolumeRequest) {
			r.VolumeCapabilities[0].GetMount().MountFlags = []string{"hard,vers=3"}
		}, `mount option "vers=3" is not allowed: only NFS versions`},
		"empty source": {func(r *csi.CreateVolumeRequest) { r.VolumeContentSource = fromSnapshot("") }, "snapshot_id must not be empty"},
	} {
		t.Run(name, func(t *testing.T) {
			r := request("bad", gib)
			c.change(r)
			_, err := e.CreateVolume(e.ctx, r)
			failed(t, err, codes.InvalidArgument, c.want)
		})
	}
	r := request("bad", gib)
	r.CapacityRange.LimitBytes = mib
	_, err := e.CreateVolume(e.ctx, r)
	failed(t, err, codes.OutOfRange, "required_bytes", "limit_bytes") // fault 16

	assert.DeepEqual(t, e.listAll(0), []string{}) // nothing was created
	r = request("flags", gib)
	r.VolumeCapabilities[0].GetMount().MountFlags = []string{"ro,noatime", "", "nconnect=4"}
	e.create(r)
	for _, fsType := range []string{"", "nfs", "nfs4"} {
		r := request("good", gib)
		r.VolumeCapabilities = []*csi.VolumeCapability{mount(fsType)}
		e.create(r)
	}
}

func badParameters(t *testing.T, b Backend) {
	e := start(t, b)
	for key, values := range map[string][]string{
		"bogus":             {"", "x"},
		"AgentURL":          {e.url},
		"agentURL":          {"", "host:1", "ftp://host", "http://", "http://user:pw@host", "http://host?x=1"},
		"nfsServer":         {"", "a b", "host/path", "-o", "[192.0.2.1]", "fe80::1%eth0", "host:2049", "ü", strings.Repeat("a", 254)},
		"nfsMountOptions":   {",", "hard,,soft", "a b", "a\nb", "a\x00", strings.Repeat("x", 1025), "nfsvers=3", "hard, bg", "vers=4.3", "proto=udp", "timeo=x"},
		"caching":           {"", "none", "Shared", "shared,fast"},
		"nocow":             {"", "yes", "2"},
		"rootSquash":        {"", "yes", "2"},
		"compression":       {"", "gzip", "zstd:0", "zstd:16", "zlib:10", "lzo:1", "zstd:", " zstd"},
		"uid":               {"", "-1", "4294967295", "1.5", "root", "99999999999999999999"},
		"gid":               {"", "-1", "4294967295", "0x10"},
		"mode":              {"", "8", "10000", "-1", "0o770", "rwx", "777777777777"},
		"storageClassName":  {""},
		"btrfs-nfs-csi/uid": {"1"},
	} {
		for _, value := range values {
			t.Run(key+"="+value, func(t *testing.T) {
				r := request("bad", gib)
				r.Parameters[key] = value
				_, err := e.CreateVolume(e.ctx, r)
				failed(t, err, codes.InvalidArgument, key)
			})
		}
	}
	r := request("bad", gib)
	r.Parameters["nocow"], r.Parameters["compression"] = "true", "zstd"
	_, err := e.CreateVolume(e.ctx, r)
	failed(t, err, codes.InvalidArgument, "nocow", "compression")
	assert.DeepEqual(t, e.listAll(0), []string{}) // nothing was created

	r = request("good", gib)
	for _, key := range []string{"csi.storage.k8s.io/pvc/name", "csi.storage.k8s.io/pvc/namespace", "csi.storage.k8s.io/pv/name", "csi.storage.k8s.io/whatever"} {
		r.Parameters[key] = "known"
	}
	assert.Equal(t, e.stored(e.create(r).VolumeId).Labels["pvc-name"], "known")
}

func badOthers(t *testing.T, b Backend) {
	e := start(t, b)
	volume := e.volume("pvc-1").VolumeId
	caps := []*csi.VolumeCapability{capability(oneNode)}
	block := capability(oneNode)
	block.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	for name, c := range map[string]struct {
		call func() error
		want string
	}{
		"delete without ID":          {func() error { _, err := e.DeleteVolume(e.ctx, &csi.DeleteVolumeRequest{}); return err }, "volume_id"},
		"delete snapshot without ID": {func() error { _, err := e.DeleteSnapshot(e.ctx, &csi.DeleteSnapshotRequest{}); return err }, "snapshot_id"},
		"get without ID":             {func() error { _, err := e.ControllerGetVolume(e.ctx, &csi.ControllerGetVolumeRequest{}); return err }, "volume_id"},
		"get snapshot without ID":    {func() error { _, err := e.GetSnapshot(e.ctx, &csi.GetSnapshotRequest{}); return err }, "snapshot_id"},
		"expand without ID": {func() error {
			_, err := e.ControllerExpandVolume(e.ctx, &csi.ControllerExpandVolumeRequest{})
			return err
		}, "volume_id"},
		"unpublish without ID": {func() error {
			_, err := e.ControllerUnpublishVolume(e.ctx, &csi.ControllerUnpublishVolumeRequest{})
			return err
		}, "volume_id"},
		"publish without ID": {func() error {
			_, err := e.ControllerPublishVolume(e.ctx, &csi.ControllerPublishVolumeRequest{NodeId: node1, VolumeCapability: caps[0]})
			return err
		}, "volume_id"},
		"publish without node": {func() error {
			_, err := e.ControllerPublishVolume(e.ctx, &csi.ControllerPublishVolumeRequest{VolumeId: volume, VolumeCapability: caps[0]})
			return err
		}, "node_id"},
		"publish without capability": {func() error {
			_, err := e.ControllerPublishVolume(e.ctx, &csi.ControllerPublishVolumeRequest{VolumeId: volume, NodeId: node1})
			return err
		}, "volume_capability"},
		"publish a block device": {func() error {
			_, err := e.ControllerPublishVolume(e.ctx, &csi.ControllerPublishVolumeRequest{VolumeId: volume, NodeId: node1, VolumeCapability: block})
			return err
		}, "block"},
		"expand a block device": {func() error {
			_, err := e.ControllerExpandVolume(e.ctx, &csi.ControllerExpandVolumeRequest{VolumeId: volume, CapacityRange: &csi.CapacityRange{}, VolumeCapability: block})
			return err
		}, "block"},
		"validate without ID": {func() error {
			_, err := e.ValidateVolumeCapabilities(e.ctx, &csi.ValidateVolumeCapabilitiesRequest{VolumeCapabilities: caps})
			return err
		}, "volume_id"},
		"validate nothing": {func() error {
			_, err := e.ValidateVolumeCapabilities(e.ctx, &csi.ValidateVolumeCapabilitiesRequest{VolumeId: volume})
			return err
		}, "volume_capabilities"},
		"list fewer than none": {func() error { _, err := e.ListVolumes(e.ctx, &csi.ListVolumesRequest{MaxEntries: -1}); return err }, "max_entries"},
		"list fewer snapshots": {func() error { _, err := e.ListSnapshots(e.ctx, &csi.ListSnapshotsRequest{MaxEntries: -1}); return err }, "max_entries"},
		"snapshot without name": {func() error {
			_, err := e.CreateSnapshot(e.ctx, &csi.CreateSnapshotRequest{SourceVolumeId: volume})
			return err
		}, "name"},
		"snapshot with a long name": {func() error {
			_, err := e.CreateSnapshot(e.ctx, &csi.CreateSnapshotRequest{SourceVolumeId: volume, Name: strings.Repeat("n", 129)})
			return err
		}, "at most 128 bytes"},
		"snapshot without source": {func() error { _, err := e.CreateSnapshot(e.ctx, &csi.CreateSnapshotRequest{Name: "x"}); return err }, "source_volume_id"},
		"snapshot with parameters": {func() error {
			_, err := e.CreateSnapshot(e.ctx, &csi.CreateSnapshotRequest{SourceVolumeId: volume, Name: "x", Parameters: map[string]string{"bogus": "1"}})
			return err
		}, "bogus"},
	} {
		t.Run(name, func(t *testing.T) { failed(t, c.call(), codes.InvalidArgument, c.want) })
	}
	assert.DeepEqual(t, e.clients(volume), []string{})
}
