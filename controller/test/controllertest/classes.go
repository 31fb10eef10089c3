package controllertest

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
)

var classTests = []behaviour{
	{"fault 14: two classes with different tenants of one agent never share anything", classesOfTwoTenants},
	{"two classes with one tenant list each volume once, under its own class", classesOfOneTenant},
	{"copies cross classes only within one tenant", classesCopies},
	{"a class that is not named is found by its parameters", classesMatched},
	{"a token in the request goes before that of the class", classesSecrets},
}

func classesOfTwoTenants(t *testing.T, b Backend) {
	url := b.Agent(t, map[string]string{token: "one", token2: "two"})
	e := startWith(t, b, url, []Class{
		{Name: "a", Token: token, Parameters: map[string]string{"agentURL": url}},
		{Name: "b", Token: token2, Parameters: map[string]string{"agentURL": url}},
	})
	second := agentFor(t, url, token2)
	ofA, ofB := e.createIn("a", "pvc-1"), e.createIn("b", "pvc-1")
	assert.Equal(t, ofA, "a|pvc-1")
	assert.Equal(t, ofB, "b|pvc-1")
	for _, agent := range []*agentclient.Client{e.agent, second} {
		_, err := agent.GetVolume(e.ctx, "pvc-1")
		assert.NilError(t, err)
	}

	// An OK for a delete with the other tenant's client would leave the data in place.
	e.delete(ofA)
	_, err := e.agent.GetVolume(e.ctx, "pvc-1")
	assert.Assert(t, agentapi.IsCode(err, agentapi.NotFound), "the first tenant's volume is gone: %v", err)
	_, err = second.GetVolume(e.ctx, "pvc-1")
	assert.NilError(t, err, "the second tenant's is not touched")
	assert.DeepEqual(t, e.listAll(0), []string{ofB})

	snapshot := e.snapshot(ofB, "snap-1")
	_, err = e.GetSnapshot(e.ctx, &csi.GetSnapshotRequest{SnapshotId: "a|snap-1"})
	failed(t, err, codes.NotFound)
	_, err = e.DeleteSnapshot(e.ctx, &csi.DeleteSnapshotRequest{SnapshotId: "a|snap-1"})
	assert.NilError(t, err)
	_, err = e.GetSnapshot(e.ctx, &csi.GetSnapshotRequest{SnapshotId: snapshot.SnapshotId})
	assert.NilError(t, err)
	e.publish(ofB, node1, manyWriters)
	e.unpublish("a|pvc-1", node1)
	stored, err := second.GetVolume(e.ctx, "pvc-1")
	assert.NilError(t, err)
	assert.Equal(t, len(stored.Clients), 1)
}

func classesOfOneTenant(t *testing.T, b Backend) {
	url := b.Agent(t, map[string]string{token: "one"})
	parameters := map[string]string{"agentURL": url}
	e := startWith(t, b, url, []Class{{Name: "b", Token: token, Parameters: parameters}, {Name: "a", Token: token, Parameters: parameters}})
	first, second := e.createIn("a", "pvc-1"), e.createIn("b", "pvc-2")
	want := []string{first, second}
	assert.DeepEqual(t, e.listAll(0), want)
	assert.DeepEqual(t, e.listAll(1), want)

	_, err := e.agent.CreateVolume(e.ctx, agentapi.VolumeCreate{Name: "pvc-3", SizeBytes: gib})
	assert.NilError(t, err)
	assert.DeepEqual(t, e.listAll(0), []string{first, second, "a|pvc-3"}) // a volume without a label belongs to the first class by name

	r := request("pvc-1", mib)
	r.Parameters["storageClassName"] = "b"
	_, err = e.CreateVolume(e.ctx, r)
	failed(t, err, codes.AlreadyExists, "storage class a")
}

func classesCopies(t *testing.T, b Backend) {
	url := b.Agent(t, map[string]string{token: "one", token2: "two"})
	other := b.Agent(t, map[string]string{token: "one"})
	e := startWith(t, b, url, []Class{
		{Name: "a", Token: token, Parameters: map[string]string{"agentURL": url}},
		{Name: "a2", Token: token, Parameters: map[string]string{"agentURL": url + "/"}},
		{Name: "tenant", Token: token2, Parameters: map[string]string{"agentURL": url}},
		{Name: "agent", Token: token, Parameters: map[string]string{"agentURL": other}},
	})
	volume := e.createIn("a", "source")
	snapshot := e.snapshot(volume, "source-snapshot")
	for kind, source := range map[string]*csi.VolumeContentSource{"snapshot": fromSnapshot(snapshot.SnapshotId), "volume": fromVolume(volume)} {
		r := request("copy-"+kind, mib)
		r.VolumeContentSource = source
		r.Parameters["storageClassName"] = "a2"
		assert.Equal(t, e.create(r).VolumeId, "a2|copy-"+kind, "the same agent and tenant")
		for _, class := range []string{"tenant", "agent"} {
			r.Parameters["storageClassName"] = class
			_, err := e.CreateVolume(e.ctx, r)
			failed(t, err, codes.InvalidArgument, "storage class a", class)
			// The token in the request belongs to the new volume's class. It proves nothing about the
			// source's.
			r.Secrets = map[string]string{"agentToken": token}
			if class == "agent" {
				_, err = e.CreateVolume(e.ctx, r)
				failed(t, err, codes.InvalidArgument)
			}
			r.Secrets = nil
		}
	}
}

func classesMatched(t *testing.T, b Backend) {
	url := b.Agent(t, map[string]string{token: "one"})
	one := startWith(t, b, url, []Class{{Name: "only", Token: token, Parameters: map[string]string{"agentURL": url, "compression": "lzo"}}})
	r := request("pvc-1", mib)
	for _, parameters := range []map[string]string{nil, {"agentURL": url}, {"uid": "0"}} {
		r.Parameters = parameters
		assert.Equal(t, one.create(r).VolumeId, "only|pvc-1")
	}
	assert.Equal(t, one.stored("only|pvc-1").Compression, "lzo")
	r.Parameters = map[string]string{"agentURL": "http://elsewhere.example.com:8080"}
	_, err := one.CreateVolume(one.ctx, r)
	failed(t, err, codes.InvalidArgument, "elsewhere")
	r.Parameters = map[string]string{"storageClassName": "another"}
	_, err = one.CreateVolume(one.ctx, r)
	failed(t, err, codes.InvalidArgument, "another")

	two := startWith(t, b, url, []Class{
		{Name: "x", Token: token, Parameters: map[string]string{"agentURL": url}},
		{Name: "y", Token: token, Parameters: map[string]string{"agentURL": url, "nfsServer": "192.0.2.50"}},
	})
	r = request("pvc-2", mib)
	r.Parameters = map[string]string{"agentURL": url}
	_, err = two.CreateVolume(two.ctx, r)
	failed(t, err, codes.InvalidArgument, "storageClassName", "x", "y")
	r.Parameters["nfsServer"] = "192.0.2.50"
	assert.Equal(t, two.create(r).VolumeId, "y|pvc-2")
}

func classesSecrets(t *testing.T, b Backend) {
	url := b.Agent(t, map[string]string{token: "one", token2: "two"})
	e := startWith(t, b, url, []Class{{Name: className, Token: token2, Parameters: map[string]string{"agentURL": url}}, {Name: "bare", Parameters: map[string]string{"agentURL": url}}})
	r := request("pvc-1", mib)
	r.Secrets = map[string]string{"agentToken": token}
	volume := e.create(r)
	_, err := e.agent.GetVolume(e.ctx, "pvc-1")
	assert.NilError(t, err, "made with the request's token")
	_, err = e.DeleteVolume(e.ctx, &csi.DeleteVolumeRequest{VolumeId: volume.VolumeId, Secrets: r.Secrets})
	assert.NilError(t, err)
	_, err = e.agent.GetVolume(e.ctx, "pvc-1")
	assert.Assert(t, agentapi.IsCode(err, agentapi.NotFound))

	r.Secrets = map[string]string{"agentToken": "wrong"}
	_, err = e.CreateVolume(e.ctx, r)
	failed(t, err, codes.Unauthenticated, url)
	for _, bad := range []string{"", "  ", "two words", "line\nfeed"} {
		r.Secrets = map[string]string{"agentToken": bad}
		_, err = e.CreateVolume(e.ctx, r)
		failed(t, err, codes.InvalidArgument, "agentToken")
	}
	r.Secrets, r.Parameters["storageClassName"] = nil, "bare"
	_, err = e.CreateVolume(e.ctx, r)
	failed(t, err, codes.FailedPrecondition, "bare", "agentToken")
	_, err = e.ListVolumes(e.ctx, &csi.ListVolumesRequest{})
	failed(t, err, codes.FailedPrecondition, "bare")
}
