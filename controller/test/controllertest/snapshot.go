package controllertest

import (
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"gotest.tools/v3/assert"
)

var snapshotTests = []behaviour{
	{"a snapshot is ready, has a size, and is made once", snapshotPlain},
	{"the name of another volume's snapshot is AlreadyExists", snapshotDiffering},
	{"what is not there", snapshotMissing},
	{"listing by ID and by source", snapshotListed},
	{"a volume that is made again has no snapshots", snapshotOfPredecessor},
}

func snapshotPlain(t *testing.T, b Backend) {
	e := start(t, b)
	volume := e.volume("pvc-1")
	for _, name := range []string{"snap-1", strings.Repeat("s", 128), "a/b"} {
		first := e.snapshot(volume.VolumeId, name)
		assert.Assert(t, first.ReadyToUse && first.CreationTime.IsValid())
		assert.Equal(t, first.SizeBytes, int64(gib))
		assert.Equal(t, first.SourceVolumeId, volume.VolumeId)
		assert.Equal(t, e.snapshot(volume.VolumeId, name).SnapshotId, first.SnapshotId)

		got, err := e.GetSnapshot(e.ctx, &csi.GetSnapshotRequest{SnapshotId: first.SnapshotId})
		assert.NilError(t, err)
		assert.Equal(t, got.Snapshot.String(), first.String())
	}
	e.delete(volume.VolumeId)
	again := e.snapshot(volume.VolumeId, "snap-1")
	assert.Equal(t, again.SnapshotId, "fast|snap-1", "the retry of a lost answer, though the volume has gone since")
}

func snapshotDiffering(t *testing.T, b Backend) {
	e := start(t, b)
	e.snapshot(e.volume("pvc-1").VolumeId, "snap-1")
	_, err := e.CreateSnapshot(e.ctx, &csi.CreateSnapshotRequest{SourceVolumeId: e.volume("pvc-2").VolumeId, Name: "snap-1"})
	failed(t, err, codes.AlreadyExists, "pvc-1")
}

func snapshotMissing(t *testing.T, b Backend) {
	e := start(t, b)
	for _, source := range []string{"fast|none", "malformed"} {
		_, err := e.CreateSnapshot(e.ctx, &csi.CreateSnapshotRequest{SourceVolumeId: source, Name: "snap"})
		failed(t, err, codes.NotFound)
	}
	for _, id := range []string{"fast|none", "malformed"} {
		_, err := e.GetSnapshot(e.ctx, &csi.GetSnapshotRequest{SnapshotId: id})
		failed(t, err, codes.NotFound)
		for range 2 {
			_, err = e.DeleteSnapshot(e.ctx, &csi.DeleteSnapshotRequest{SnapshotId: id})
			assert.NilError(t, err)
		}
	}
	_, err := e.DeleteSnapshot(e.ctx, &csi.DeleteSnapshotRequest{SnapshotId: "nosuchclass|snap"})
	failed(t, err, codes.FailedPrecondition, "nosuchclass")
}

// snapshots lists the IDs of snapshots.
func (e *testEnv) snapshots(r *csi.ListSnapshotsRequest) []string {
	e.Helper()
	answer, err := e.ListSnapshots(e.ctx, r)
	assert.NilError(e, err)
	ids := make([]string, 0, len(answer.Entries))
	for _, entry := range answer.Entries {
		ids = append(ids, entry.Snapshot.SnapshotId)
	}
	return ids
}

func snapshotListed(t *testing.T, b Backend) {
	e := start(t, b)
	first := e.snapshot(e.volume("pvc-1").VolumeId, "snap-1")
	second := e.snapshot(e.volume("pvc-2").VolumeId, "snap-2")
	list := e.snapshots
	assert.DeepEqual(t, list(&csi.ListSnapshotsRequest{}), []string{first.SnapshotId, second.SnapshotId})
	assert.DeepEqual(t, list(&csi.ListSnapshotsRequest{SnapshotId: first.SnapshotId}), []string{first.SnapshotId})
	assert.DeepEqual(t, list(&csi.ListSnapshotsRequest{SourceVolumeId: second.SourceVolumeId}), []string{second.SnapshotId})
	for _, unknown := range []string{"fast|none", "malformed"} {
		assert.DeepEqual(t, list(&csi.ListSnapshotsRequest{SnapshotId: unknown}), []string{})
		assert.DeepEqual(t, list(&csi.ListSnapshotsRequest{SourceVolumeId: unknown}), []string{})
	}
	assert.DeepEqual(t, list(&csi.ListSnapshotsRequest{SnapshotId: first.SnapshotId, SourceVolumeId: second.SourceVolumeId}), []string{})
}

func snapshotOfPredecessor(t *testing.T, b Backend) {
	e := start(t, b)
	volume := e.volume("pvc-1").VolumeId
	old := e.snapshot(volume, "old").SnapshotId
	e.delete(volume)
	assert.Equal(t, e.volume("pvc-1").VolumeId, volume)
	_, err := e.CreateSnapshot(e.ctx, &csi.CreateSnapshotRequest{SourceVolumeId: volume, Name: "old"})
	failed(t, err, codes.AlreadyExists, "deleted volume")
	own := e.snapshot(volume, "own").SnapshotId
	assert.Equal(t, e.snapshot(volume, "own").SnapshotId, own)
	for _, test := range []struct {
		request *csi.ListSnapshotsRequest
		want    []string
	}{
		{&csi.ListSnapshotsRequest{}, []string{old, own}},
		{&csi.ListSnapshotsRequest{SourceVolumeId: volume}, []string{own}},
		{&csi.ListSnapshotsRequest{SourceVolumeId: volume, SnapshotId: own}, []string{own}},
		{&csi.ListSnapshotsRequest{SourceVolumeId: volume, SnapshotId: old}, []string{}},
		{&csi.ListSnapshotsRequest{SnapshotId: old}, []string{old}},
	} {
		assert.DeepEqual(t, e.snapshots(test.request), test.want)
	}

	r := request("restored", gib)
	r.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
		Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: old},
	}}
	e.create(r)
	_, err = e.DeleteSnapshot(e.ctx, &csi.DeleteSnapshotRequest{SnapshotId: old})
	assert.NilError(t, err)
	assert.DeepEqual(t, e.snapshots(&csi.ListSnapshotsRequest{}), []string{own})
}
