package controllertest

import (
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

var modifyTests = []behaviour{
	{"each mutable parameter, alone and again", modifyEach},
	{"what is not named stays", modifyOne},
	{"bad mutable parameters are named and change nothing", modifyBad},
	{"mount options count from the next publication on", modifyMountOptions},
	{"a limit is lifted and set anew", modifyLimit},
	{"a volume and a copy are made with mutable parameters", modifyAtCreation},
}

func (e *testEnv) modify(volumeID string, parameters map[string]string) error {
	_, err := e.ControllerModifyVolume(e.ctx, &csi.ControllerModifyVolumeRequest{VolumeId: volumeID, MutableParameters: parameters})
	return err
}

func modifyEach(t *testing.T, b Backend) {
	e := start(t, b)
	volume := e.volume("pvc-1").VolumeId
	for _, c := range []struct {
		key, value string
		is         func(v *agentapi.VolumeDetail) bool
	}{
		{"compression", "zstd:3", func(v *agentapi.VolumeDetail) bool { return v.Compression == "zstd:3" }},
		{"compression", "none", func(v *agentapi.VolumeDetail) bool { return v.Compression == "none" }},
		{"uid", "1000", func(v *agentapi.VolumeDetail) bool { return v.Uid == 1000 }},
		{"gid", "2000", func(v *agentapi.VolumeDetail) bool { return v.Gid == 2000 }},
		{"mode", "0750", func(v *agentapi.VolumeDetail) bool { return strings.TrimLeft(v.Mode, "0") == "750" }},
		{"labels", "team=blue,tier=1", func(v *agentapi.VolumeDetail) bool {
			return v.Labels["team"] == "blue" && v.Labels["tier"] == "1" && v.Labels["storage-class"] == className && v.Labels["created-by"] == "btrfs-nfs-csi"
		}},
		{"labels", "", func(v *agentapi.VolumeDetail) bool {
			return v.Labels["team"] == "" && v.Labels["storage-class"] == className
		}},
		{"nfsMountOptions", "noatime, nconnect=4", func(v *agentapi.VolumeDetail) bool { return strings.Join(v.MountOptions, ",") == "noatime,nconnect=4" }},
		{"nfsMountOptions", "", func(v *agentapi.VolumeDetail) bool { return len(v.MountOptions) == 0 }},
		{"sizeLimit", "off", func(v *agentapi.VolumeDetail) bool { return v.QuotaBytes == 0 && v.SizeBytes == gib }},
		{"sizeLimit", "on", func(v *agentapi.VolumeDetail) bool { return v.QuotaBytes == gib }},
	} {
		for range 10 {
			assert.NilError(t, e.modify(volume, map[string]string{c.key: c.value}), "%s=%s", c.key, c.value)
		}
		stored := e.stored(volume)
		assert.Assert(t, c.is(stored), "%s=%s: %+v", c.key, c.value, stored)
	}
	assert.NilError(t, e.modify(volume, nil))
	failed(t, e.modify("fast|none", map[string]string{"uid": "1"}), codes.NotFound)
	failed(t, e.modify("nonsense", map[string]string{"uid": "1"}), codes.NotFound)
	failed(t, e.modify("", map[string]string{"uid": "1"}), codes.InvalidArgument, "volume_id")
}

func modifyOne(t *testing.T, b Backend) {
	e := start(t, b)
	volume := e.volume("pvc-1").VolumeId
	all := map[string]string{"compression": "zstd", "uid": "1", "gid": "2", "mode": "770", "labels": "a=b", "nfsMountOptions": "noatime", "sizeLimit": "off"}
	assert.NilError(t, e.modify(volume, all))
	want := e.stored(volume)
	for _, parameters := range []map[string]string{{"uid": "5"}, {"csi.storage.k8s.io/pvc/name": "data", "csi.storage.k8s.io/pvc/namespace": "x"}} {
		assert.NilError(t, e.modify(volume, parameters))
	}
	want.Uid = 5
	have := e.stored(volume)
	want.UpdatedAt = have.UpdatedAt
	assert.DeepEqual(t, have, want)
}

func modifyBad(t *testing.T, b Backend) {
	e := start(t, b)
	volume := e.volume("pvc-1").VolumeId
	want := e.stored(volume)
	for key, values := range map[string][]string{
		"bogus":                     {"", "x"},
		"nocow":                     {"true"}, // removes checksums: for new volumes only
		"agentURL":                  {"http://elsewhere"},
		"Compression":               {"zstd"},
		"compression":               {"", "gzip", "zstd:16"},
		"uid":                       {"", "-1", "root", "4294967295"},
		"gid":                       {"", "x"},
		"mode":                      {"", "8", "10000"},
		"labels":                    {"a", "A=b", "a=b c", "a=1,a=2", "created-by=me", "caching=fast", "storage-class=x", "pvc-name=x"},
		"nfsMountOptions":           {",", "a b", "hard,,soft", strings.Repeat("x", 1025), "bg", "hard,nfsvers=3", "addr=192.0.2.9"},
		"caching":                   {"", "none", "Shared", "shared,fast"},
		"sizeLimit":                 {"", "true", "0", "10Gi"},
		"btrfs-nfs-csi/compression": {"zstd"},
	} {
		for _, value := range values {
			err := e.modify(volume, map[string]string{key: value, "gid": "77"})
			if key == "gid" {
				err = e.modify(volume, map[string]string{key: value, "uid": "77"})
			}
			failed(t, err, codes.InvalidArgument, key)
			answer, err := e.ValidateVolumeCapabilities(e.ctx, &csi.ValidateVolumeCapabilitiesRequest{
				VolumeId: volume, VolumeCapabilities: []*csi.VolumeCapability{capability(manyWriters)}, MutableParameters: map[string]string{key: value},
			})
			assert.NilError(t, err)
			assert.Assert(t, answer.Confirmed == nil)
		}
	}
	assert.DeepEqual(t, e.stored(volume), want)

	r := request("nocow", gib)
	r.Parameters["nocow"] = "true"
	nocow := e.create(r).VolumeId
	failed(t, e.modify(nocow, map[string]string{"compression": "zstd", "uid": "77"}), codes.InvalidArgument, "compression")
	assert.Equal(t, e.stored(nocow).Uid, int64(0))
	r = request("both", gib)
	r.Parameters["nocow"], r.MutableParameters = "true", map[string]string{"compression": "zstd"}
	_, err := e.CreateVolume(e.ctx, r)
	failed(t, err, codes.InvalidArgument, "compression")
}

func modifyMountOptions(t *testing.T, b Backend) {
	url := b.Agent(t, map[string]string{token: "one"})
	e := startWith(t, b, url, []Class{{Name: className, Token: token, Parameters: map[string]string{"agentURL": url, "nfsMountOptions": "hard,timeo=600"}}})
	volume := e.volume("pvc-1").VolumeId
	options := func() string { return e.publish(volume, node1, manyWriters)["nfsMountOptions"] }
	assert.Equal(t, options(), "vers=4.2,lookupcache=none,hard,timeo=600")
	assert.NilError(t, e.modify(volume, map[string]string{"nfsMountOptions": "timeo=50,nconnect=2,nfsvers=4.1"}))
	assert.Equal(t, options(), "lookupcache=none,hard,timeo=50,nconnect=2,nfsvers=4.1")
	assert.NilError(t, e.modify(volume, map[string]string{"nfsMountOptions": ""}))
	assert.Equal(t, options(), "vers=4.2,lookupcache=none,hard,timeo=600")
}

func modifyLimit(t *testing.T, b Backend) {
	e := start(t, b)
	volume := e.volume("pvc-1").VolumeId
	assert.NilError(t, e.modify(volume, map[string]string{"sizeLimit": "off"}))
	answer, err := e.ControllerGetVolume(e.ctx, &csi.ControllerGetVolumeRequest{VolumeId: volume})
	assert.NilError(t, err)
	assert.Equal(t, answer.Volume.CapacityBytes, int64(gib), "its size stays what it is called")
	grown, err := e.ControllerExpandVolume(e.ctx, &csi.ControllerExpandVolumeRequest{VolumeId: volume, CapacityRange: &csi.CapacityRange{RequiredBytes: 2 * gib}})
	assert.NilError(t, err)
	assert.Equal(t, grown.CapacityBytes, int64(2*gib))
	assert.Equal(t, e.stored(volume).QuotaBytes, int64(0))
	snapshot := e.snapshot(volume, "snap")
	assert.Equal(t, snapshot.SizeBytes, int64(2*gib))
	r := request("copy", 2*gib)
	r.VolumeContentSource = fromSnapshot(snapshot.SnapshotId)
	assert.Equal(t, e.stored(e.create(r).VolumeId).QuotaBytes, int64(2*gib), "a copy has a limit")
	assert.NilError(t, e.modify(volume, map[string]string{"sizeLimit": "on"}))
	assert.Equal(t, e.stored(volume).QuotaBytes, int64(2*gib))
}

func modifyAtCreation(t *testing.T, b Backend) {
	e := start(t, b)
	source := e.volume("source").VolumeId
	for name, content := range map[string]*csi.VolumeContentSource{"empty": nil, "copy": fromVolume(source)} {
		r := request(name, gib)
		r.Parameters["compression"], r.Parameters["uid"] = "lzo", "7"
		r.VolumeContentSource = content
		r.MutableParameters = map[string]string{"compression": "zstd:2", "gid": "9", "labels": "team=blue", "nfsMountOptions": "noatime", "sizeLimit": "off"}
		for range 3 {
			volume := e.create(r)
			assert.Equal(t, volume.CapacityBytes, int64(gib))
			stored := e.stored(volume.VolumeId)
			assert.Equal(t, stored.Compression, "zstd:2", "mutable parameters go before the class's")
			assert.Equal(t, stored.Uid, int64(7))
			assert.Equal(t, stored.Gid, int64(9))
			assert.Equal(t, stored.Labels["team"], "blue")
			assert.DeepEqual(t, stored.MountOptions, []string{"noatime"})
			assert.Equal(t, stored.QuotaBytes, int64(0))
		}
		r.MutableParameters["compression"] = "none"
		if content == nil {
			_, err := e.CreateVolume(e.ctx, r)
			failed(t, err, codes.AlreadyExists, "compression")
		}
	}
}
