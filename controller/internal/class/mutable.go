package class

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/mountoptions"
)

// SizeLimit is the mutable parameter that enforces the size of a volume: on or off.
const SizeLimit = "sizeLimit"

// Mutable holds the mutable parameters of a volume, as a VolumeAttributesClass has them. They can
// change while the volume exists. Parameters that are not given stay as they are.
type Mutable struct {
	Properties // without NoCOW, which would remove the checksums of existing data
	// MountOptions replace the options that were set for the volume before. Options of the class stay
	// if they do not contradict these. They take effect at the volume's next attachment to a node. nil
	// means unset.
	MountOptions []string
	Caching      string // one of mountoptions.CachingPolicies; "" means unset; it takes effect at the same time
	SizeLimit    *bool
}

// mutableKeys returns the keys that are allowed.
func mutableKeys() []string {
	return []string{keyCompression, keyUID, keyGID, keyMode, keyLabels, MountOptions, Caching, SizeLimit}
}

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
	if err := mountoptions.CheckCaching(m.Caching, m.MountOptions); err != nil {
		return Mutable{}, fmt.Errorf("mutable parameter %q: %w", MountOptions, err)
	}
	return m, nil
}

func (m *Mutable) set(key, value string) (err error) {
	switch key {
	case keyCompression, keyUID, keyGID, keyMode:
		_, err = m.Properties.set(key, value)
	case keyLabels:
		m.Labels, err = parseLabels(value)
	case MountOptions:
		options, err := parseMountOptions(value)
		if err != nil {
			return err
		}
		if err := mountoptions.Check(options); err != nil {
			return fmt.Errorf("is wrong: %w", err)
		}
		m.MountOptions = append([]string{}, options...) // an empty list is not unset
	case Caching:
		if err := checkCaching(value); err != nil {
			return err
		}
		m.Caching = value
	case SizeLimit:
		if value != "on" && value != "off" {
			return fmt.Errorf("is %q, it must be on or off", value)
		}
		on := value == "on"
		m.SizeLimit = &on
	default:
		return fmt.Errorf("is not known; known are %s", strings.Join(mutableKeys(), ", "))
	}
	return err
}

// Mutate overrides the properties of a class and a claim with mutable parameters.
func (p Properties) Mutate(m Mutable) (Properties, error) {
	if m.Compression != "" {
		p.Compression = m.Compression
	}
	if m.UID != nil {
		p.UID = m.UID
	}
	if m.GID != nil {
		p.GID = m.GID
	}
	if m.Mode != "" {
		p.Mode = m.Mode
	}
	if m.Labels != nil {
		p.Labels = m.Labels
	}
	if err := p.check(); err != nil {
		return Properties{}, fmt.Errorf("class and mutable parameter %q together: %w", keyCompression, err)
	}
	return p, nil
}
