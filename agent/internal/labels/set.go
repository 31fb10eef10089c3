package labels

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// Set is labels that are kept, in the order of their keys. A map in its place takes 340 bytes more for each volume.
type Set []Label

// Label is one label.
type Label struct{ Key, Value string }

// Of makes a set of a map.
func Of(labels map[string]string) Set {
	var s Set
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		s = append(s, Label{key, labels[key]})
	}
	return slices.Clip(s)
}

// Get returns a label's value, and whether there is such a label.
func (s Set) Get(key string) (value string, found bool) {
	i, found := slices.BinarySearchFunc(s, key, func(l Label, key string) int { return strings.Compare(l.Key, key) })
	if found {
		value = s[i].Value
	}
	return value, found
}

// Map makes a map of the set: nil of an empty one.
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

// MarshalJSON writes the object that a map would be.
func (s Set) MarshalJSON() ([]byte, error) { return json.Marshal(s.Map()) }

// UnmarshalJSON reads what a map would.
func (s *Set) UnmarshalJSON(b []byte) error {
	var labels map[string]string
	if err := json.Unmarshal(b, &labels); err != nil {
		return err
	}
	*s = Of(labels)
	return nil
}
