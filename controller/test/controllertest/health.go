package controllertest

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"gotest.tools/v3/assert"
)

var healthTests = []behaviour{
	{"a volume that is well", healthWell},
}

// healthWell checks the results that any agent gives. Backends that can cause faults test the rest.
func healthWell(t *testing.T, b Backend) {
	e := start(t, b)
	volume := e.volume("pvc-1").VolumeId
	e.publish(volume, node1, manyWriters)
	answer, err := e.ControllerGetVolumeHealth(e.ctx, &csi.ControllerGetVolumeHealthRequest{VolumeId: volume})
	assert.NilError(t, err)
	assert.Equal(t, answer.VolumeHealth.VolumeId, volume)
	assert.Equal(t, len(answer.VolumeHealth.HealthStatuses), 0, "%v", answer.VolumeHealth.HealthStatuses)
	list, err := e.ControllerListVolumeHealth(e.ctx, &csi.ControllerListVolumeHealthRequest{})
	assert.NilError(t, err)
	assert.Equal(t, len(list.Entries), 0, "%v", list.Entries)

	for id, code := range map[string]codes.Code{"": codes.InvalidArgument, "nonsense": codes.NotFound, "fast|none": codes.NotFound} {
		_, err := e.ControllerGetVolumeHealth(e.ctx, &csi.ControllerGetVolumeHealthRequest{VolumeId: id})
		failed(t, err, code)
	}
	_, err = e.ControllerListVolumeHealth(e.ctx, &csi.ControllerListVolumeHealthRequest{MaxEntries: -1})
	failed(t, err, codes.InvalidArgument, "max_entries")
	_, err = e.ControllerListVolumeHealth(e.ctx, &csi.ControllerListVolumeHealthRequest{StartingToken: "nonsense"})
	failed(t, err, codes.Aborted, "nonsense")
}
