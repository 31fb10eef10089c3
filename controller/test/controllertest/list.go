package controllertest

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

var listTests = []behaviour{
	{"pages of every size hold every volume and snapshot once, across agents", listPages},
	{"pages stay right while volumes come and go", listChanging},
	{"a bad token is Aborted", listBadToken},
	{"volumes and where they are published", listPublished},
	{"capacity is that of the pools, each once", listCapacity},
}

// twoAgents returns three classes: two of two tenants of one agent, one of another agent.
func twoAgents(t *testing.T, b Backend) *testEnv {
	t.Helper()
	first, second := b.Agent(t, map[string]string{token: "one", token2: "two"}), b.Agent(t, map[string]string{token: "three"})
	return startWith(t, b, first, []Class{
		{Name: "a", Token: token, Parameters: map[string]string{"agentURL": first}},
		{Name: "b", Token: token2, Parameters: map[string]string{"agentURL": first}},
		{Name: "c", Token: token, Parameters: map[string]string{"agentURL": second}},
	})
}

func (e *testEnv) createIn(class, name string) string {
	e.Helper()
	r := request(name, mib)
	r.Parameters["storageClassName"] = class
	return e.create(r).VolumeId
}

// listAll lists in pages and checks that none is larger than most.
func (e *testEnv) listAll(most int32) []string {
	e.Helper()
	ids, next := []string{}, ""
	for range 1000 {
		answer, err := e.ListVolumes(e.ctx, &csi.ListVolumesRequest{MaxEntries: most, StartingToken: next})
		assert.NilError(e, err)
		assert.Assert(e, most == 0 || len(answer.Entries) <= int(most))
		for _, entry := range answer.Entries {
			ids = append(ids, entry.Volume.VolumeId)
		}
		if next = answer.NextToken; next == "" {
			return ids
		}
	}
	e.Fatal("the list has no end")
	return nil
}

func listPages(t *testing.T, b Backend) {
	e := twoAgents(t, b)
	assert.DeepEqual(t, e.listAll(0), []string{})
	want, wantSnapshots := make([]string, 0, 15), make([]string, 0, 15)
	for _, class := range []string{"a", "b", "c"} {
		for i := range 5 {
			want = append(want, e.createIn(class, numbered("pvc", i)))
			wantSnapshots = append(wantSnapshots, e.snapshot(want[len(want)-1], numbered("snap", i)).SnapshotId)
		}
	}
	for _, most := range []int32{0, 1, 2, 4, 5, 6, 10, 14, 15, 16, 1000} {
		assert.DeepEqual(t, e.listAll(most), want)
		snapshots, next := []string{}, ""
		for first := true; first || next != ""; first = false {
			answer, err := e.ListSnapshots(e.ctx, &csi.ListSnapshotsRequest{MaxEntries: most, StartingToken: next})
			assert.NilError(t, err)
			assert.Assert(t, most == 0 || len(answer.Entries) <= int(most))
			for _, entry := range answer.Entries {
				snapshots = append(snapshots, entry.Snapshot.SnapshotId)
			}
			next = answer.NextToken
		}
		assert.DeepEqual(t, snapshots, wantSnapshots)
	}
}

func listChanging(t *testing.T, b Backend) {
	e := twoAgents(t, b)
	ids := make([]string, 0, 6)
	for i := range 6 {
		ids = append(ids, e.createIn("b", numbered("pvc", i)))
	}
	page, err := e.ListVolumes(e.ctx, &csi.ListVolumesRequest{MaxEntries: 3})
	assert.NilError(t, err)
	for _, id := range ids[:3] {
		e.delete(id)
	}
	added := e.createIn("b", "pvc-999")
	rest, err := e.ListVolumes(e.ctx, &csi.ListVolumesRequest{StartingToken: page.NextToken})
	assert.NilError(t, err)
	got := make([]string, 0, len(rest.Entries))
	for _, entry := range rest.Entries {
		got = append(got, entry.Volume.VolumeId)
	}
	assert.DeepEqual(t, got, append(slices.Clone(ids[3:]), added))
}

func listBadToken(t *testing.T, b Backend) {
	e := start(t, b)
	e.volume("pvc-1")
	e.volume("pvc-2")
	encode := base64.RawURLEncoding.EncodeToString
	page, err := e.ListVolumes(e.ctx, &csi.ListVolumesRequest{MaxEntries: 1})
	assert.NilError(t, err)
	good, err := base64.RawURLEncoding.DecodeString(page.NextToken)
	assert.NilError(t, err)
	var ofTheAgent map[string]string
	assert.NilError(t, json.Unmarshal(good, &ofTheAgent))
	ofTheAgent["a"] = "garbage"
	garbage, err := json.Marshal(ofTheAgent)
	assert.NilError(t, err)
	for _, bad := range []string{
		"invalid-token", "1", "-1", "\u00e9", encode([]byte("{}")), encode([]byte("[]")), encode([]byte(`{"t":"gone"}`)), encode(garbage),
	} {
		_, err := e.ListVolumes(e.ctx, &csi.ListVolumesRequest{StartingToken: bad})
		failed(t, err, codes.Aborted, "starting_token")
		_, err = e.ListSnapshots(e.ctx, &csi.ListSnapshotsRequest{StartingToken: bad})
		failed(t, err, codes.Aborted, "starting_token")
	}
}

func listPublished(t *testing.T, b Backend) {
	e := twoAgents(t, b)
	published, other := e.createIn("a", "pvc-1"), e.createIn("c", "pvc-2")
	e.publish(published, node1, manyWriters)
	e.publish(published, "worker-6|2001:db8::6", manyWriters)
	_, err := e.agent.Export(e.ctx, "pvc-1", agentapi.ExportRequest{Client: "192.0.2.200"})
	assert.NilError(t, err)

	answer, err := e.ListVolumes(e.ctx, &csi.ListVolumesRequest{})
	assert.NilError(t, err)
	got := map[string][]string{}
	for _, entry := range answer.Entries {
		got[entry.Volume.VolumeId] = append([]string{}, entry.Status.PublishedNodeIds...)
	}
	assert.DeepEqual(t, got, map[string][]string{published: {node1, "worker-6|2001:db8::6"}, other: {}})
}

func listCapacity(t *testing.T, b Backend) {
	e := twoAgents(t, b)
	capacity := func(parameters map[string]string) int64 {
		t.Helper()
		answer, err := e.GetCapacity(e.ctx, &csi.GetCapacityRequest{Parameters: parameters})
		assert.NilError(t, err)
		assert.Equal(t, answer.MinimumVolumeSize.GetValue(), int64(mib))
		return answer.AvailableCapacity
	}
	stats, err := e.agent.Stats(e.ctx)
	assert.NilError(t, err)
	free := stats.Btrfs.FreeBytes
	near := func(got, want int64) bool { return got > want/10*9 && got < want/10*11 } // the free space of a pool in use changes a little
	assert.Assert(t, near(capacity(map[string]string{"storageClassName": "a"}), free))
	assert.Assert(t, near(capacity(map[string]string{"agentURL": e.url}), free), "two tenants share the pool")
	all, one, other := capacity(nil), capacity(map[string]string{"storageClassName": "b"}), capacity(map[string]string{"storageClassName": "c"})
	assert.Assert(t, near(all, one+other), "%d, %d and %d", all, one, other)

	block := capability(oneNode)
	block.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	answer, err := e.GetCapacity(e.ctx, &csi.GetCapacityRequest{VolumeCapabilities: []*csi.VolumeCapability{block}})
	assert.NilError(t, err)
	assert.Equal(t, answer.AvailableCapacity, int64(0), "none of what cannot be made")

	for _, parameters := range []map[string]string{{"agentURL": "http://nowhere.example.com:1"}, {"storageClassName": "none"}, {"bogus": "x"}} {
		_, err := e.GetCapacity(e.ctx, &csi.GetCapacityRequest{Parameters: parameters})
		failed(t, err, codes.InvalidArgument)
	}
}
