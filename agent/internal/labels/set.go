package labels

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// Set is a list of labels, sorted by key. A map would take 340 bytes more for each volume.
type Set []Label

// Label is one label.
type Label struct{ Key, Value string }

// Of converts a map to a set.
func Of(labels map[string]string) Set {
	var s Set
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		s = append(s, Label{key, labels[key]})
	}
	return slices.Clip(s)
}

// Get returns the value of a label, and whether the label exists.
func (s Set) Get(key string) (value string, found bool) {
	i, found := slices.BinarySearchFunc(s, key, func(l Label, key string) int { return strings.Compare(l.Key, key) })
	if found {
		value = s[i].Value
	}
	return value, found
}

// Map converts the set to a map. It returns nil for an empty set.
func (s Set) Map() map[string]string {
	if len(s) == 0 {
		return nil
	}
	out := make(map[string]string, len(s))
	for _, l := range s {
		out[l.Key] = l.Value
	}
	return out
}

// MarshalJSON writes the same object as for a map.
func (s Set) MarshalJSON() ([]byte, error) { return json.Marshal(s.Map()) }

// UnmarshalJSON reads the same object as a map.
func (s *Set) UnmarshalJSON(b []byte) error {
	var labels map[string]string
	if err := json.Unmarshal(b, &labels); err != nil {
		return err
	}
	*s = Of(labels)
	return nil
}
