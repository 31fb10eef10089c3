package agentapi

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
)

// Features of agents. An agent lists its own in the health answer. One of 57e475d lists none. A
// word keeps its meaning for good.
const (
	// FeatureVolumeID means that volumes have an ID, and that a volume's snapshots are those
	// with its ID.
	FeatureVolumeID = "volume-id"
	// FeatureCloneProperties means that a clone request takes the properties of the new volume.
	FeatureCloneProperties = "clone-properties"
	// FeatureCreateProperties means that a create request takes all that an update takes.
	FeatureCreateProperties = "create-properties"
)

// Features lists what an agent of this version has.
func Features() []string {
	return []string{FeatureVolumeID, FeatureCloneProperties, FeatureCreateProperties}
}

// cloneProperties are the fields of a clone request that came with FeatureCloneProperties.
var cloneProperties = map[string]string{
	"size_limit":    FeatureCloneProperties,
	"nocow":         FeatureCloneProperties,
	"compression":   FeatureCloneProperties,
	"root_squash":   FeatureCloneProperties,
	"uid":           FeatureCloneProperties,
	"gid":           FeatureCloneProperties,
	"mode":          FeatureCloneProperties,
	"mount_options": FeatureCloneProperties,
}

// newerFields are the fields that an agent of 57e475d does not know, with their features, by
// the type of the request.
var newerFields = map[string]map[string]string{
	"VolumeCreate": {
		"size_limit":    FeatureCreateProperties,
		"mount_options": FeatureCreateProperties,
	},
	"VolumeClone":   cloneProperties,
	"SnapshotClone": cloneProperties,
}

// NewerField is a field of a request that not every agent knows.
type NewerField struct{ Name, Feature string }

// NewerFields lists those of the request's fields that are set and that not every agent knows.
func NewerFields(request any) ([]NewerField, error) {
	known := newerFields[reflect.TypeOf(request).Name()]
	if len(known) == 0 {
		return nil, nil
	}
	encoded, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	var set map[string]json.RawMessage
	if err := json.Unmarshal(encoded, &set); err != nil {
		return nil, err
	}
	var fields []NewerField
	for _, name := range slices.Sorted(maps.Keys(set)) {
		if feature, newer := known[name]; newer {
			fields = append(fields, NewerField{name, feature})
		}
	}
	return fields, nil
}
