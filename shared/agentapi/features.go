package agentapi

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
)

// Features of agents. An agent lists its features in the health answer. An agent of 57e475d lists
// none. The meaning of a word never changes.
const (
	// FeatureVolumeID means that volumes have an ID, and that the snapshots of a volume carry this ID.
	FeatureVolumeID = "volume-id"
	// FeatureCloneProperties means that a clone request accepts the properties of the new volume.
	FeatureCloneProperties = "clone-properties"
	// FeatureCreateProperties means that a create request accepts all fields of an update.
	FeatureCreateProperties = "create-properties"
)

// Features returns the features of an agent of this version.
func Features() []string {
	return []string{FeatureVolumeID, FeatureCloneProperties, FeatureCreateProperties}
}

// cloneProperties holds the fields of a clone request that came with FeatureCloneProperties.
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

// newerFields maps request types to the fields that an agent of 57e475d does not know, with their
// features.
var newerFields = map[string]map[string]string{
	"VolumeCreate": {
		"size_limit":    FeatureCreateProperties,
		"mount_options": FeatureCreateProperties,
	},
	"VolumeClone":   cloneProperties,
	"SnapshotClone": cloneProperties,
}

// NewerField is a field of a request that older agents do not know.
type NewerField struct{ Name, Feature string }

// NewerFields returns the fields of the request that are set and that older agents do not know.
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
