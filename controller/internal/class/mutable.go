package class

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/mountoptions"
)

// SizeLimit is the mutable parameter that says whether a volume's size is enforced: on or off.
const SizeLimit = "sizeLimit"

// Mutable are the mutable parameters of a volume, as a VolumeAttributesClass has them: what may change while the volume
// lives. What is not given stays as it is.
type Mutable struct {
	Properties // but for NoCOW, which would take the checksums of data away that was written with them
	// MountOptions replace those that were set for the volume before. Those of the class stay, where these do not contradict.
	// They count from the volume's next attachment to a node on. nil unset.
	MountOptions []string
	Caching      string // one of mountoptions.CachingPolicies; "" unset. It counts from then on, too.
	SizeLimit    *bool
}

// mutableKeys are what can be given.
func mutableKeys() []string {
	return []string{keyCompression, keyUID, keyGID, keyMode, keyLabels, MountOptions, Caching, SizeLimit}
}

// ParseMutable checks mutable parameters. The error names the one that is wrong.
func ParseMutable(parameters map[string]string) (Mutable, error) {
	var m Mutable
	for _, key := range slices.Sorted(maps.Keys(parameters)) {
		if strings.HasPrefix(key, ProvisionerPrefix) { // the resizer's --extra-modify-metadata
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
		m.MountOptions = append([]string{}, options...) // none is not unset
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

// Mutate lets mutable parameters override what a class and a claim ask for.
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
