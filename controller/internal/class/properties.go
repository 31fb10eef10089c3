package class

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// Properties holds the settings of a volume that a class or a claim may choose. The agent chooses
// unset properties.
type Properties struct {
	NoCOW       *bool
	Compression string // none, zstd[:1-15], zlib[:1-9] or lzo; "" means unset
	UID, GID    *int64
	Mode        string            // octal text; "" means unset
	RootSquash  *bool             // only for a class: a claim must not disable it
	Labels      map[string]string // from annotations or mutable parameters; nil means unset
}

const (
	keyNoCOW       = "nocow"
	keyCompression = "compression"
	keyUID         = "uid"
	keyGID         = "gid"
	keyMode        = "mode"
	keyRootSquash  = "rootSquash"
	keyLabels      = "labels"

	// AnnotationPrefix is the prefix of the claim annotations that override the class for that claim.
	AnnotationPrefix = "btrfs-nfs-csi/"
)

func propertyKeys() []string { return []string{keyNoCOW, keyCompression, keyUID, keyGID, keyMode} }

var octalMode = regexp.MustCompile(`^[0-7]{1,5}$`)

// set parses one property. known is false if the key is not a property.
func (p *Properties) set(key, value string) (known bool, err error) {
	switch key {
	case keyNoCOW:
		on, err := strconv.ParseBool(value)
		if err != nil {
			return true, fmt.Errorf("is %q, it must be true or false", value)
		}
		p.NoCOW = &on
	case keyRootSquash:
		on, err := strconv.ParseBool(value)
		if err != nil {
			return true, fmt.Errorf("is %q, it must be true or false", value)
		}
		p.RootSquash = &on
	case keyCompression:
		if err := agentapi.CheckCompression(value); err != nil {
			return true, fmt.Errorf("is wrong: %w", err)
		}
		p.Compression = value
	case keyUID:
		p.UID, err = parseOwner(value)
		return true, err
	case keyGID:
		p.GID, err = parseOwner(value)
		return true, err
	case keyMode:
		mode, err := strconv.ParseUint(value, 8, 32)
		if err != nil || mode > 0o7777 || !octalMode.MatchString(value) {
			return true, fmt.Errorf("is %q, it must be an octal mode from 0 to 7777", value)
		}
		p.Mode = value
	default:
		return false, nil
	}
	return true, nil
}

// parseOwner allows the IDs that the kernel allows: every 32-bit ID except the last, which means
// "none" (user_namespaces(7)). The agent may allow fewer IDs and reports that itself.
func parseOwner(value string) (*int64, error) {
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < 0 || n >= math.MaxUint32 {
		return nil, fmt.Errorf("is %q, it must be a number from 0 to %d", value, int64(math.MaxUint32)-1)
	}
	return &n, nil
}

func (p Properties) check() error {
	if p.NoCOW != nil && *p.NoCOW && p.Compression != "" && p.Compression != "none" {
		return fmt.Errorf("nocow excludes compression, which is %q", p.Compression)
	}
	return nil
}

// Override applies a claim's annotations of the form
// btrfs-nfs-csi/{nocow,compression,uid,gid,mode,labels}. The error names the invalid annotation.
func (p Properties) Override(annotations map[string]string) (Properties, error) {
	for _, annotation := range slices.Sorted(maps.Keys(annotations)) {
		key, ours := strings.CutPrefix(annotation, AnnotationPrefix)
		if !ours {
			continue
		}
		var err error
		known := true
		switch key {
		case keyLabels:
			p.Labels, err = parseLabels(annotations[annotation])
		case keyRootSquash:
			known = false
		default:
			known, err = p.set(key, annotations[annotation])
		}
		if !known {
			return Properties{}, fmt.Errorf("annotation %q is not known; known are %s{%s,%s}", annotation, AnnotationPrefix, strings.Join(propertyKeys(), ","), keyLabels)
		}
		if err != nil {
			return Properties{}, fmt.Errorf("annotation %q %w", annotation, err)
		}
	}
	if err := p.check(); err != nil {
		return Properties{}, fmt.Errorf("class and annotations %q together: %w", AnnotationPrefix+"{nocow,compression}", err)
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
