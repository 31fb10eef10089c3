package agentapi

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// knownTo57e475d holds the fields of requests that need no feature.
var knownTo57e475d = map[reflect.Type]string{
	reflect.TypeFor[VolumeCreate]():    "name size_bytes quota_bytes nocow compression root_squash uid gid mode labels",
	reflect.TypeFor[VolumeClone]():     "source name size_bytes labels",
	reflect.TypeFor[SnapshotClone]():   "snapshot name size_bytes labels",
	reflect.TypeFor[VolumeUpdate]():    "size_bytes nocow compression root_squash uid gid mode labels size_limit mount_options",
	reflect.TypeFor[SnapshotCreate]():  "volume name labels",
	reflect.TypeFor[ExportRequest]():   "client read_only labels",
	reflect.TypeFor[UnexportRequest](): "client labels",
	reflect.TypeFor[TaskStart]():       "timeout opts labels",
}

// Each field that an older agent does not know has a feature, and this version's agent lists it.
func TestNewFieldsHaveFeatures(t *testing.T) {
	for request, known := range knownTo57e475d {
		for _, field := range reflect.VisibleFields(request) {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if field.Anonymous || slices.Contains(strings.Fields(known), name) {
				continue
			}
			i := slices.IndexFunc(properties, func(p Property) bool { return p.Name == name })
			assert.Assert(t, i >= 0, "%s of %s", name, request.Name())
			feature := featureOf(properties[i], request.Name())
			assert.Check(t, slices.Contains(Features(), feature), "%s of %s: the feature %q", name, request.Name(), feature)
		}
	}
	// The reverse: the agent lists no feature whose fields it does not have.
	_, hasProperties := reflect.TypeFor[VolumeClone]().FieldByName("Compression")
	assert.Equal(t, slices.Contains(Features(), FeatureCloneProperties), hasProperties)
}

// docs/api.md has a line for each feature.
func TestFeaturesAreDocumented(t *testing.T) {
	document, err := os.ReadFile("../../docs/api.md")
	assert.NilError(t, err)
	for _, feature := range append(Features(), FeatureCloneProperties) {
		assert.Assert(t, strings.Contains(string(document), "| `"+feature+"` | "), feature)
	}
}

func TestNewerFields(t *testing.T) {
	type SnapshotClone struct {
		Name        string `json:"name"`
		Compression string `json:"compression,omitempty"`
		Nocow       *bool  `json:"nocow,omitempty"`
		Uid         *int64 `json:"uid,omitempty"`
	}
	fields, err := NewerFields(SnapshotClone{Name: "c"})
	assert.NilError(t, err)
	assert.Equal(t, len(fields), 0)
	fields, err = NewerFields(SnapshotClone{Compression: "zstd", Uid: new(int64)})
	assert.NilError(t, err)
	assert.DeepEqual(t, fields, []NewerField{{"compression", FeatureCloneProperties}, {"uid", FeatureCloneProperties}})
	fields, err = NewerFields(VolumeCreate{RequestedProperties: RequestedProperties{Compression: new("zstd")}})
	assert.NilError(t, err)
	assert.Equal(t, len(fields), 0)
}
