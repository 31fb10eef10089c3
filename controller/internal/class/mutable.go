package class

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/mountoptions"
)

// Mutable holds the mutable parameters of a volume, as a VolumeAttributesClass has them. They can
// change while the volume exists. Parameters that are not given stay as they are.
type Mutable struct {
	// Properties has MountOptions that replace those that were set for the volume before. Options of
	// the class stay if they do not contradict these. They take effect at the volume's next attachment
	// to a node, and so does Caching.
	Properties
	Caching string // one of mountoptions.CachingPolicies; "" means unset
}

// mutableKeys returns the keys that are allowed.
func mutableKeys() []string { return append(keysOf(mutable), keyLabels, Caching) }

// ParseMutable checks mutable parameters. The error names the invalid parameter.
func ParseMutable(parameters map[string]string) (Mutable, error) {
	var m Mutable
	for _, key := range slices.Sorted(maps.Keys(parameters)) {
		if strings.HasPrefix(key, ProvisionerPrefix) { // from the resizer's --extra-modify-metadata
			continue
		}
		if err := m.set(key, parameters[key]); err != nil {
			return Mutable{}, fmt.Errorf("mutable parameter %q %w", key, err)
		}
	}
	if m.MountOptions == nil {
		return m, nil
	}
	if err := mountoptions.CheckCaching(m.Caching, *m.MountOptions); err != nil {
		return Mutable{}, fmt.Errorf("mutable parameter %q: %w", MountOptions, err)
	}
	return m, nil
}

func (m *Mutable) set(key, value string) (err error) {
	switch key {
	case keyLabels:
		m.Labels, err = parseLabels(value)
		return err
	case Caching:
		m.Caching = value
		return checkCaching(value)
	}
	known, err := m.Properties.set(mutable, key, value)
	if !known {
		return fmt.Errorf("is not known; known are %s", strings.Join(mutableKeys(), ", "))
	}
	return err
}

// Mutate overrides the properties of a class and a claim with mutable parameters.
func (p Properties) Mutate(m Mutable) (Properties, error) {
	p.RequestedProperties = p.With(m.RequestedProperties)
	if m.Labels != nil {
		p.Labels = m.Labels
	}
	if err := p.Check(); err != nil {
		return Properties{}, fmt.Errorf("class and mutable parameters together: %w", err)
	}
	return p, nil
}
