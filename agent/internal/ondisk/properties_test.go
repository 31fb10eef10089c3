package ondisk

import (
	"slices"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// Each property of a request reaches the volume, metadata.json and the API.
func TestPropertiesAreStored(t *testing.T) {
	var asked agentapi.RequestedProperties
	for _, p := range agentapi.AllProperties() {
		if slices.Contains([]string{"size_limit", "mount_options"}, p.Name) { // have their own fields
			continue
		}
		fits := func(text string) bool { return p.Set(&asked, text) == nil }
		assert.Assert(t, slices.ContainsFunc([]string{"true", "7", "zstd:3"}, fits), p.Name)
	}
	properties, err := Properties{}.With(asked)
	assert.NilError(t, err)
	content, err := Volume{Name: "v", Properties: properties}.Metadata().encode()
	assert.NilError(t, err)
	read, err := decodeMetadata(content)
	assert.NilError(t, err)

	has := agentapi.PropertiesOf(&agentapi.VolumeDetail{Properties: read.AsVolume().Properties.Wire()})
	for _, p := range agentapi.AllProperties() {
		if p.In(asked) {
			assert.Equal(t, p.Text(has), p.Text(asked), p.Name)
		}
	}
	kept, err := properties.With(agentapi.RequestedProperties{})
	assert.NilError(t, err)
	assert.DeepEqual(t, kept, properties)
}
