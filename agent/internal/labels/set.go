package labels

import (
	"encoding/json"
	"iter"
	"maps"
	"slices"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/packed"
)

// Set is labels that are kept: one text instead of a map, with keys and values behind each other in the order of the keys, so that
// equal labels are equal texts. The zero value has none.
type Set string

// Of makes a set of a map, which stays the caller's.
func Of(labels map[string]string) Set {
	var b []byte
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		b = packed.AppendText(packed.AppendText(b, key), labels[key])
	}
	return Set(b)
}

// All are the labels in the order of their keys.
func (s Set) All() iter.Seq2[string, string] {
	return func(yield func(key, value string) bool) {
		for rest := string(s); rest != ""; {
			var key, value string
			key, rest = packed.CutText(rest)
			value, rest = packed.CutText(rest)
			if !yield(key, value) {
				return
			}
		}
	}
}

// Get returns a label's value, and whether there is such a label.
func (s Set) Get(key string) (string, bool) {
	for k, value := range s.All() {
		if k == key {
			return value, true
		}
	}
	return "", false
}

// Map makes a map of the set: nil of an empty one.
func (s Set) Map() map[string]string {
	if s == "" {
		return nil
	}
	return maps.Collect(s.All())
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
