package agentapi

import (
	"encoding/json"
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
	features := []string{FeatureVolumeID, FeatureCloneProperties, FeatureCreateProperties}
	for _, p := range properties {
		if p.Feature != "" && !slices.Contains(features, p.Feature) {
			features = append(features, p.Feature)
		}
	}
	return features
}

// featureOf returns the feature of an agent that knows the property in this type of request. ""
// means that an agent of 57e475d knows it.
func featureOf(p Property, request string) string {
	switch {
	case p.Feature != "":
		return p.Feature
	case request == "VolumeClone" || request == "SnapshotClone":
		return FeatureCloneProperties
	case request == "VolumeCreate" && (p.Name == "size_limit" || p.Name == "mount_options"):
		return FeatureCreateProperties
	}
	return ""
}

// NewerField is a field of a request that older agents do not know.
type NewerField struct{ Name, Feature string }

// NewerFields returns the fields of the request that are set and that older agents do not know.
func NewerFields(request any) ([]NewerField, error) {
	encoded, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	var set map[string]json.RawMessage
	if err := json.Unmarshal(encoded, &set); err != nil {
		return nil, err
	}
	var fields []NewerField
	for _, p := range properties {
		feature := featureOf(p, reflect.TypeOf(request).Name())
		if _, given := set[p.Name]; given && feature != "" {
			fields = append(fields, NewerField{p.Name, feature})
		}
	}
	return fields, nil
}
