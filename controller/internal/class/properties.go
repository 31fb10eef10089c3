package class

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// Properties holds the properties of a volume that a class, a claim or a VolumeAttributesClass
// chooses. The agent chooses the others.
type Properties struct {
	agentapi.RequestedProperties
	Labels map[string]string // from annotations or mutable parameters; nil means unset
}

const (
	keyLabels = "labels"

	// AnnotationPrefix is the prefix of the claim annotations that override the class for that claim.
	AnnotationPrefix = "btrfs-nfs-csi/"
)

// keysOf returns the keys of the properties that a level may choose.
func keysOf(level func(agentapi.Property) bool) []string {
	var keys []string
	for _, p := range agentapi.AllProperties() {
		if level(p) {
			keys = append(keys, p.Key)
		}
	}
	return keys
}

func ofClass(p agentapi.Property) bool { return p.Class }
func ofClaim(p agentapi.Property) bool { return p.Claim }
func mutable(p agentapi.Property) bool { return p.Mutable }

// set parses one property. known is false if the level cannot choose such a property.
func (p *Properties) set(level func(agentapi.Property) bool, key, value string) (known bool, err error) {
	for _, property := range agentapi.AllProperties() {
		if level(property) && property.Key == key {
			return true, property.Set(&p.RequestedProperties, value)
		}
	}
	return false, nil
}

// Override applies the annotations of a claim, which have AnnotationPrefix. The error names the
// invalid annotation.
func (p Properties) Override(annotations map[string]string) (Properties, error) {
	for _, annotation := range slices.Sorted(maps.Keys(annotations)) {
		key, ours := strings.CutPrefix(annotation, AnnotationPrefix)
		if !ours {
			continue
		}
		var err error
		known := true
		if key == keyLabels {
			p.Labels, err = parseLabels(annotations[annotation])
		} else {
			known, err = p.set(ofClaim, key, annotations[annotation])
		}
		if !known {
			return Properties{}, fmt.Errorf("annotation %q is not known; known are %s{%s,%s}", annotation, AnnotationPrefix, strings.Join(keysOf(ofClaim), ","), keyLabels)
		}
		if err != nil {
			return Properties{}, fmt.Errorf("annotation %q %w", annotation, err)
		}
	}
	if err := p.Check(); err != nil {
		return Properties{}, fmt.Errorf("class and annotations %q together: %w", AnnotationPrefix, err)
	}
	return p, nil
}

// ReservedLabels returns the labels that the driver sets.
func ReservedLabels() []string { return append(labelsOfAll(), LabelCaching) }

// labelsOfAll returns the labels that the driver sets on every volume of a claim.
func labelsOfAll() []string {
	return []string{agentapi.CreatedByLabel, LabelClass, LabelClaim, LabelClaimNamespace}
}

// Labels that the driver sets on the volumes and snapshots that it creates.
const (
	LabelClass          = "storage-class"
	LabelClaim          = "pvc-name"
	LabelClaimNamespace = "pvc-namespace"
	// LabelCaching holds the caching policy that a VolumeAttributesClass names for a volume. It is a
	// label because every agent stores labels.
	LabelCaching = "caching"
)

func parseLabels(s string) (map[string]string, error) {
	out := map[string]string{}
	if strings.TrimSpace(s) == "" {
		return out, nil
	}
	for pair := range strings.SplitSeq(s, ",") {
		key, value, found := strings.Cut(strings.TrimSpace(pair), "=")
		if !found {
			return nil, fmt.Errorf("has %q, which is not of the form key=value", pair)
		}
		if err := agentapi.CheckLabel(key, value); err != nil {
			return nil, fmt.Errorf("is wrong: %w", err)
		}
		if slices.Contains(ReservedLabels(), key) {
			return nil, fmt.Errorf("has the key %q, which the driver sets itself", key)
		}
		if _, twice := out[key]; twice {
			return nil, fmt.Errorf("has the key %q twice", key)
		}
		out[key] = value
	}
	if limit := agentapi.MaxLabels - len(labelsOfAll()); len(out) > limit {
		return nil, fmt.Errorf("has %d labels, the limit is %d", len(out), limit)
	}
	return out, nil
}
