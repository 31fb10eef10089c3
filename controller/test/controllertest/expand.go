package controllertest

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"gotest.tools/v3/assert"
)

var expandTests = []behaviour{
	{"a volume grows, never shrinks, and the quota is what is reported", expand},
}

func expand(t *testing.T, b Backend) {
	e := start(t, b)
	volume := e.volume("pvc-1")
	for _, c := range []struct {
		name            string
		required, limit int64
		want            int64
		code            codes.Code
	}{
		{name: "grow", required: 2 * gib, want: 2 * gib},
		{name: "again", required: 2 * gib, want: 2 * gib},
		{name: "smaller is there already", required: gib, want: 2 * gib},
		{name: "shrink", limit: gib, code: codes.OutOfRange},
		{name: "limit only", limit: 3 * gib, want: 2 * gib},
		{name: "both", required: 3 * gib, limit: 3 * gib, want: 3 * gib},
		{name: "required over limit", required: 5 * gib, limit: 4 * gib, code: codes.OutOfRange},
		{name: "over the pool", required: pib, code: codes.ResourceExhausted},
		{name: "negative", required: -1, code: codes.InvalidArgument},
		{name: "odd bytes", required: 3*gib + 1, want: 3*gib + 1},
	} {
		answer, err := e.ControllerExpandVolume(e.ctx, &csi.ControllerExpandVolumeRequest{
			VolumeId: volume.VolumeId, CapacityRange: &csi.CapacityRange{RequiredBytes: c.required, LimitBytes: c.limit},
		})
		if c.code != codes.OK {
			failed(t, err, c.code, "bytes")
			continue
		}
		assert.NilError(t, err, c.name)
		assert.Equal(t, answer.CapacityBytes, c.want, c.name)
		assert.Assert(t, !answer.NodeExpansionRequired)
		assert.Equal(t, e.stored(volume.VolumeId).QuotaBytes, c.want, c.name)
	}
	_, err := e.ControllerExpandVolume(e.ctx, &csi.ControllerExpandVolumeRequest{VolumeId: volume.VolumeId})
	failed(t, err, codes.InvalidArgument, "capacity_range")
	_, err = e.ControllerExpandVolume(e.ctx, &csi.ControllerExpandVolumeRequest{VolumeId: "fast|none", CapacityRange: &csi.CapacityRange{RequiredBytes: gib}})
	failed(t, err, codes.NotFound)
}
