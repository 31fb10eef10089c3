package controllertest

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

var copyTests = []behaviour{
	{"a copy has the source's size, or the larger one that was asked for", copySizes},
	{"a copy is made once, also when its source has gone since", copyAgain},
	{"a copy gets the properties of its class", copyProperties},
	{"a copy whose properties the agent refuses is not made", copyRefused},
	{"another source under the same name is AlreadyExists", copyDiffering},
	{"a source that is not there is NotFound", copyMissing},
	{"a copy outlives its source", copyOutlives},
}

func fromSnapshot(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id}}}
}

func fromVolume(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: id}}}
}

// sources returns a snapshot and a volume to copy, of 1 GiB.
func (e *testEnv) sources() map[string]*csi.VolumeContentSource {
	e.Helper()
	volume := e.volume("source")
	return map[string]*csi.VolumeContentSource{
		"snapshot": fromSnapshot(e.snapshot(volume.VolumeId, "source-snapshot").SnapshotId),
		"volume":   fromVolume(volume.VolumeId),
	}
}

func copySizes(t *testing.T, b Backend) {
	e := start(t, b)
	for kind, source := range e.sources() {
		for _, c := range []struct {
			name            string
			required, limit int64
			want            int64
			code            codes.Code
		}{
			{name: "none", want: gib},
			{name: "equal", required: gib, want: gib},
			{name: "larger", required: 2 * gib, want: 2 * gib},
			{name: "room", limit: 2 * gib, want: gib},
			{name: "smaller", required: gib - 1, code: codes.OutOfRange},
			{name: "limit-smaller", limit: gib - 1, code: codes.OutOfRange},
		} {
			t.Run(kind+" "+c.name, func(t *testing.T) {
				r := request("copy-"+kind+"-"+c.name, 0)
				r.CapacityRange = &csi.CapacityRange{RequiredBytes: c.required, LimitBytes: c.limit}
				r.VolumeContentSource = source
				answer, err := e.CreateVolume(e.ctx, r)
				if c.code != codes.OK {
					failed(t, err, c.code, "1073741824", "source")
					return
				}
				assert.NilError(t, err)
				assert.Equal(t, answer.Volume.CapacityBytes, c.want)
				assert.DeepEqual(t, answer.Volume.ContentSource.String(), source.String())
				assert.Equal(t, e.stored(answer.Volume.VolumeId).QuotaBytes, c.want, "grown before it was reported")
			})
		}
	}
}

func copyAgain(t *testing.T, b Backend) {
	e := start(t, b)
	sources := e.sources()
	for kind, source := range sources {
		r := request("copy-"+kind, 2*gib)
		r.VolumeContentSource = source
		first := e.create(r)
		for range 3 {
			assert.Equal(t, e.create(r).VolumeId, first.VolumeId)
		}
	}
	_, err := e.DeleteSnapshot(e.ctx, &csi.DeleteSnapshotRequest{SnapshotId: sources["snapshot"].GetSnapshot().SnapshotId})
	assert.NilError(t, err)
	e.delete(sources["volume"].GetVolume().VolumeId)
	for kind, source := range sources {
		r := request("copy-"+kind, 2*gib)
		r.VolumeContentSource = source
		assert.Equal(t, e.create(r).CapacityBytes, int64(2*gib), "the retry of a lost answer, %s", kind)
	}
}

func copyProperties(t *testing.T, b Backend) {
	e := start(t, b)
	for kind, source := range e.sources() {
		r := request("copy-"+kind, gib)
		r.VolumeContentSource = source
		for key, value := range map[string]string{"uid": "1000", "gid": "2000", "mode": "0700", "compression": "zlib:3"} {
			r.Parameters[key] = value
		}
		stored := e.stored(e.create(r).VolumeId)
		assert.Equal(t, stored.Uid, int64(1000))
		assert.Equal(t, stored.Gid, int64(2000))
		assert.Equal(t, stored.Compression, "zlib:3")
		assert.Equal(t, e.create(r).VolumeId, "fast|copy-"+kind)
		r.Parameters["uid"] = "1001"
		_, err := e.CreateVolume(e.ctx, r)
		failed(t, err, codes.AlreadyExists, "uid")
	}
}

func copyRefused(t *testing.T, b Backend) {
	e := start(t, b)
	made := request("compressed", gib)
	made.Parameters["compression"] = "zstd"
	volume := e.create(made).VolumeId
	for kind, source := range map[string]*csi.VolumeContentSource{"volume": fromVolume(volume), "snapshot": fromSnapshot(e.snapshot(volume, "snap").SnapshotId)} {
		r := request("copy-of-"+kind, gib)
		r.VolumeContentSource = source
		r.Parameters["nocow"], r.Parameters["uid"] = "true", "7"
		_, err := e.CreateVolume(e.ctx, r)
		failed(t, err, codes.InvalidArgument, "nocow", "compression")
		_, err = e.agent.GetVolume(e.ctx, r.Name)
		assert.Assert(t, agentapi.IsCode(err, agentapi.NotFound), "%v", err)
	}
}

func copyDiffering(t *testing.T, b Backend) {
	e := start(t, b)
	sources := e.sources()
	r := request("copy", gib)
	r.VolumeContentSource = sources["snapshot"]
	e.create(r)

	other := request("copy", gib)
	other.VolumeContentSource = fromSnapshot(e.snapshot("fast|source", "second").SnapshotId)
	_, err := e.CreateVolume(e.ctx, other)
	failed(t, err, codes.AlreadyExists, "source-snapshot")

	other.VolumeContentSource = sources["volume"]
	_, err = e.CreateVolume(e.ctx, other)
	failed(t, err, codes.AlreadyExists)

	other.VolumeContentSource = nil
	_, err = e.CreateVolume(e.ctx, other)
	failed(t, err, codes.AlreadyExists)

	r.CapacityRange.RequiredBytes = 2 * gib
	_, err = e.CreateVolume(e.ctx, r)
	failed(t, err, codes.AlreadyExists, "bytes")
}

func copyMissing(t *testing.T, b Backend) {
	e := start(t, b)
	for _, source := range []*csi.VolumeContentSource{
		fromSnapshot("fast|none"), fromSnapshot("malformed"), fromVolume("fast|none"), fromVolume("malformed"), fromVolume("fast|a/b"),
		fromSnapshot("elsewhere|none"), fromVolume("elsewhere|none"),
	} {
		r := request("copy", gib)
		r.VolumeContentSource = source
		_, err := e.CreateVolume(e.ctx, r)
		failed(t, err, codes.NotFound)
	}
	r := request("itself", gib)
	r.VolumeContentSource = fromVolume("fast|itself")
	_, err := e.CreateVolume(e.ctx, r)
	failed(t, err, codes.InvalidArgument, "itself")
	r.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{}}}
	_, err = e.CreateVolume(e.ctx, r)
	failed(t, err, codes.InvalidArgument, "volume_id")
}

func copyOutlives(t *testing.T, b Backend) {
	e := start(t, b)
	sources := e.sources()
	r := request("copy", gib)
	r.VolumeContentSource = sources["snapshot"]
	volume := e.create(r)
	e.delete("fast|source")
	_, err := e.DeleteSnapshot(e.ctx, &csi.DeleteSnapshotRequest{SnapshotId: sources["snapshot"].GetSnapshot().SnapshotId})
	assert.NilError(t, err)
	e.publish(volume.VolumeId, node1, manyWriters)
	assert.DeepEqual(t, e.clients(volume.VolumeId), []string{"192.0.2.1"})
}
