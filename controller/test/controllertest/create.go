package controllertest

import (
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"gotest.tools/v3/assert"
)

var createTests = []behaviour{
	{"a volume has what was asked for and its context is complete", createPlain},
	{"sizes", createSizes},
	{"the same request again gives the same volume", createAgain},
	{"the same name with another size or other parameters is AlreadyExists", createDiffering},
	{"names of every shape work and stay apart", createNames},
	{"delete is idempotent and refuses a published volume", deleteVolume},
	{"eight at once make one volume", createAtOnce},
	{"every access mode", createModes},
	{"validate and get", validateAndGet},
}

func createPlain(t *testing.T, b Backend) {
	url := b.Agent(t, map[string]string{token: "one"})
	e := startWith(t, b, url, []Class{{Name: className, Token: token, Parameters: map[string]string{
		"agentURL": url, "nfsServer": "nfs.example.com", "nfsMountOptions": "hard,nconnect=4", "caching": "shared", "compression": "zstd", "uid": "1000", "gid": "2000", "mode": "0770",
	}}})
	volume := e.create(request("pvc-1", gib))
	assert.Equal(t, volume.VolumeId, "fast|pvc-1")
	assert.Equal(t, volume.CapacityBytes, int64(gib))
	assert.DeepEqual(t, volume.VolumeContext, map[string]string{"agentURL": url, "nfsServer": "nfs.example.com", "nfsMountOptions": "hard,nconnect=4", "caching": "shared"})

	stored := e.stored(volume.VolumeId)
	assert.Equal(t, stored.QuotaBytes, int64(gib))
	assert.Equal(t, stored.Compression, "zstd")
	assert.Equal(t, stored.Uid, int64(1000))
	assert.Equal(t, stored.Gid, int64(2000))
	assert.Assert(t, strings.HasSuffix(stored.Mode, "770"), stored.Mode)
	assert.Equal(t, stored.Labels["created-by"], "btrfs-nfs-csi")
	assert.Equal(t, stored.Labels["storage-class"], className)
	assert.Equal(t, stored.CreatedBy, "btrfs-nfs-csi")
}

func createSizes(t *testing.T, b Backend) {
	e := start(t, b)
	for _, c := range []struct {
		name            string
		required, limit int64
		want            int64
		code            codes.Code
	}{
		{name: "required", required: 2 * gib, want: 2 * gib},
		{name: "both", required: gib, limit: 2 * gib, want: gib},
		{name: "equal", required: gib, limit: gib, want: gib},
		{name: "limit over the default", limit: 2 * gib, want: gib},
		{name: "limit under the default", limit: 5 * mib, want: 5 * mib},
		{name: "neither", want: gib},
		{name: "odd bytes", required: gib + 1, limit: gib + 1, want: gib + 1},
		{name: "below the minimum", required: 1, want: mib},
		{name: "below the minimum with room", required: 1, limit: mib, want: mib},
		{name: "minimum over the limit", required: 1, limit: mib - 1, code: codes.OutOfRange},
		{name: "limit below the minimum", limit: 10, code: codes.OutOfRange},
		{name: "required over limit", required: 2 * gib, limit: gib, code: codes.OutOfRange},
		{name: "over the pool", required: pib, code: codes.ResourceExhausted},
		{name: "negative required", required: -1, code: codes.InvalidArgument},
		{name: "negative limit", limit: -1, code: codes.InvalidArgument},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := request("size-"+strings.ReplaceAll(c.name, " ", "-"), 0)
			r.CapacityRange = &csi.CapacityRange{RequiredBytes: c.required, LimitBytes: c.limit}
			answer, err := e.CreateVolume(e.ctx, r)
			if c.code != codes.OK {
				failed(t, err, c.code, "bytes")
				return
			}
			assert.NilError(t, err)
			assert.Equal(t, answer.Volume.CapacityBytes, c.want)
			assert.Equal(t, e.stored(answer.Volume.VolumeId).QuotaBytes, c.want, "what is reported is the quota")
		})
	}
	r := request("no-range", 0)
	r.CapacityRange = nil
	assert.Equal(t, e.create(r).CapacityBytes, int64(gib))
}

func createAgain(t *testing.T, b Backend) {
	e := start(t, b)
	first := e.volume("pvc-1")
	for range 10 {
		again := e.volume("pvc-1")
		assert.Equal(t, again.VolumeId, first.VolumeId)
		assert.Equal(t, again.CapacityBytes, first.CapacityBytes)
	}
	// A volume that has grown since still matches, as long as the limit allows.
	_, err := e.ControllerExpandVolume(e.ctx, &csi.ControllerExpandVolumeRequest{VolumeId: first.VolumeId, CapacityRange: &csi.CapacityRange{RequiredBytes: 2 * gib}})
	assert.NilError(t, err)
	assert.Equal(t, e.volume("pvc-1").CapacityBytes, int64(2*gib))
	r := request("pvc-1", gib)
	r.CapacityRange.LimitBytes = gib
	_, err = e.CreateVolume(e.ctx, r)
	failed(t, err, codes.AlreadyExists, "limit")
}

func createDiffering(t *testing.T, b Backend) {
	e := start(t, b)
	e.volume("pvc-1")
	_, err := e.CreateVolume(e.ctx, request("pvc-1", 2*gib))
	failed(t, err, codes.AlreadyExists, "bytes")
	for key, value := range map[string]string{"compression": "lzo", "nocow": "true", "rootSquash": "true", "uid": "7", "gid": "7", "mode": "0700"} {
		r := request("pvc-1", gib)
		r.Parameters[key] = value
		_, err := e.CreateVolume(e.ctx, r)
		failed(t, err, codes.AlreadyExists, key)
	}
	snapshot := e.snapshot("fast|pvc-1", "snap-1")
	r := request("pvc-1", gib)
	r.VolumeContentSource = fromSnapshot(snapshot.SnapshotId)
	_, err = e.CreateVolume(e.ctx, r)
	failed(t, err, codes.AlreadyExists, "copy of")
}

func createNames(t *testing.T, b Backend) {
	e := start(t, b)
	seen := map[string]bool{}
	long := strings.Repeat("n", 127)
	for _, name := range []string{
		"pvc-1", "PVC.1_x", long + "a", long + "b", strings.Repeat("n", 128-len("fast|")), strings.Repeat("n", 129-len("fast|")), "snapshots", ".hidden", "..", "a/b", "a b", "a|b",
		"ünïcode", "nul\x00", "new\nline", "-rf", "../../etc",
	} {
		volume := e.create(request(name, mib))
		assert.Assert(t, !seen[volume.VolumeId], "%q has the ID of another name: %s", name, volume.VolumeId)
		seen[volume.VolumeId] = true
		assert.Assert(t, len(volume.VolumeId) <= 128)
		assert.Equal(t, e.create(request(name, mib)).VolumeId, volume.VolumeId)
		_, err := e.ControllerGetVolume(e.ctx, &csi.ControllerGetVolumeRequest{VolumeId: volume.VolumeId})
		assert.NilError(t, err)
	}
	for id := range seen {
		e.delete(id)
	}
}

func deleteVolume(t *testing.T, b Backend) {
	e := start(t, b)
	volume := e.volume("pvc-1")
	e.publish(volume.VolumeId, node1, manyWriters)
	_, err := e.DeleteVolume(e.ctx, &csi.DeleteVolumeRequest{VolumeId: volume.VolumeId})
	failed(t, err, codes.FailedPrecondition)
	e.unpublish(volume.VolumeId, node1)
	for range 10 {
		e.delete(volume.VolumeId)
	}
	for _, unknown := range []string{"fast|never-was", "malformed", "|", "a|b|c", "fast|..", "fast|" + strings.Repeat("x", 200), "fast|snapshots"} {
		e.delete(unknown)
	}
	// An unknown class may have the volume. An OK would lose it.
	_, err = e.DeleteVolume(e.ctx, &csi.DeleteVolumeRequest{VolumeId: "nosuchclass|pvc-1"})
	failed(t, err, codes.FailedPrecondition, "nosuchclass")
}

func createAtOnce(t *testing.T, b Backend) {
	e := start(t, b)
	type result struct {
		volume *csi.Volume
		err    error
	}
	results := make(chan result, 8)
	for range cap(results) {
		go func() {
			answer, err := e.CreateVolume(e.ctx, request("pvc-1", gib))
			results <- result{answer.GetVolume(), err}
		}()
	}
	made := 0
	for range cap(results) {
		r := <-results
		if r.err != nil {
			failed(t, r.err, codes.Aborted)
			continue
		}
		made++
		assert.Equal(t, r.volume.VolumeId, "fast|pvc-1")
	}
	assert.Assert(t, made > 0)
	assert.Equal(t, e.volume("pvc-1").CapacityBytes, int64(gib))
}

// createModes creates a volume for each access mode and publishes it with that mode. A single
// request may name several modes.
func createModes(t *testing.T, b Backend) {
	e := start(t, b)
	all := request("pvc-all", gib)
	all.VolumeCapabilities = nil
	for name, value := range csi.VolumeCapability_AccessMode_Mode_value {
		mode := csi.VolumeCapability_AccessMode_Mode(value)
		r := request("pvc-"+strings.ToLower(strings.ReplaceAll(name, "_", "-")), gib)
		r.VolumeCapabilities = []*csi.VolumeCapability{capability(mode)}
		if mode == csi.VolumeCapability_AccessMode_UNKNOWN {
			_, err := e.CreateVolume(e.ctx, r)
			failed(t, err, codes.InvalidArgument, "access_mode")
			continue
		}
		all.VolumeCapabilities = append(all.VolumeCapabilities, r.VolumeCapabilities...)
		e.publish(e.create(r).VolumeId, node1, mode)
	}
	assert.Equal(t, len(all.VolumeCapabilities), 7, "the modes of the specification")
	e.create(all)
}

func validateAndGet(t *testing.T, b Backend) {
	e := start(t, b)
	volume := e.volume("pvc-1")
	for name, mode := range csi.VolumeCapability_AccessMode_Mode_value {
		answer, err := e.ValidateVolumeCapabilities(e.ctx, &csi.ValidateVolumeCapabilitiesRequest{
			VolumeId: volume.VolumeId, VolumeCapabilities: []*csi.VolumeCapability{capability(csi.VolumeCapability_AccessMode_Mode(mode))},
		})
		assert.NilError(t, err)
		assert.Equal(t, answer.Confirmed != nil, name != "UNKNOWN", name)
	}
	block := capability(oneNode)
	block.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	answer, err := e.ValidateVolumeCapabilities(e.ctx, &csi.ValidateVolumeCapabilitiesRequest{VolumeId: volume.VolumeId, VolumeCapabilities: []*csi.VolumeCapability{block}})
	assert.NilError(t, err)
	assert.Assert(t, answer.Confirmed == nil && strings.Contains(answer.Message, "block"))
	for name, c := range map[string]struct {
		parameters, context map[string]string
		message             string // "" if it is confirmed
	}{
		"as it was made":      {parameters: map[string]string{"storageClassName": className, "nocow": "false", "compression": "none"}, context: volume.VolumeContext},
		"additions of others": {context: map[string]string{"storage.kubernetes.io/csiProvisionerIdentity": "x"}},
		"unknown parameter":   {parameters: map[string]string{"bogus": "x"}, message: "bogus"},
		"another class":       {parameters: map[string]string{"storageClassName": "slow"}, message: "slow"},
		"other properties":    {parameters: map[string]string{"nocow": "true"}, message: "nocow"},
		"a bad context":       {context: map[string]string{"agentURL": "ftp://agent"}, message: "agentURL"},
	} {
		answer, err := e.ValidateVolumeCapabilities(e.ctx, &csi.ValidateVolumeCapabilitiesRequest{
			VolumeId: volume.VolumeId, VolumeCapabilities: []*csi.VolumeCapability{capability(oneNode)}, Parameters: c.parameters, VolumeContext: c.context,
		})
		assert.NilError(t, err, name)
		assert.Equal(t, answer.Confirmed != nil, c.message == "", "%s: %s", name, answer.Message)
		assert.Assert(t, strings.Contains(answer.Message, c.message), answer.Message)
		if answer.Confirmed != nil {
			assert.DeepEqual(t, answer.Confirmed.Parameters, c.parameters)
			assert.DeepEqual(t, answer.Confirmed.VolumeContext, c.context)
		}
	}

	_, err = e.ControllerGetVolume(e.ctx, &csi.ControllerGetVolumeRequest{VolumeId: "fast|other"})
	failed(t, err, codes.NotFound)
	got, err := e.ControllerGetVolume(e.ctx, &csi.ControllerGetVolumeRequest{VolumeId: volume.VolumeId})
	assert.NilError(t, err)
	assert.Equal(t, got.Volume.CapacityBytes, int64(gib))
	assert.DeepEqual(t, got.Volume.VolumeContext, volume.VolumeContext)
	assert.Equal(t, len(got.Status.PublishedNodeIds), 0)
}
