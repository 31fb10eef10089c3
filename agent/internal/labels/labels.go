// Package labels validates the labels of volumes, snapshots, references and tasks, and selects by
// labels.
package labels

import (
	"maps"
	"slices"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// Check returns Invalid if a label violates the contract, or if there are more than
// agentapi.MaxLabels.
func Check(labels map[string]string) error {
	if len(labels) > agentapi.MaxLabels {
		return agentapi.Errorf(agentapi.Invalid, "labels: %d given, the limit is %d", len(labels), agentapi.MaxLabels)
	}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if err := agentapi.CheckLabel(key, labels[key]); err != nil {
			return agentapi.Errorf(agentapi.Invalid, "labels: %w", err)
		}
	}
	return nil
}

// Selector matches labels against terms. The zero value matches everything.
type Selector []term

type term struct {
	key, value string
	hasValue   bool
}

// ParseSelector reads terms of the form "key=value" or "key". Other terms, and more than
// agentapi.MaxLabels, are Invalid.
func ParseSelector(terms []string) (Selector, error) {
	if len(terms) > agentapi.MaxLabels {
		return nil, agentapi.Errorf(agentapi.Invalid, "label: %d terms given, the limit is %d", len(terms), agentapi.MaxLabels)
	}
	s := make(Selector, len(terms))
	for i, text := range terms {
		s[i].key, s[i].value, s[i].hasValue = strings.Cut(text, "=")
		if err := agentapi.CheckLabel(s[i].key, s[i].value); err != nil {
			return nil, agentapi.Errorf(agentapi.Invalid, "label %q must be key or key=value: %w", text, err)
		}
	}
	return s, nil
}

// Matches reports whether the labels match every term.
func (s Selector) Matches(labels Set) bool {
	for _, term := range s {
		value, found := labels.Get(term.key)
		if !found || term.hasValue && value != term.value {
			return false
		}
	}
	return true
}
