// Package id formats and parses the identifiers that cross component borders: volume and snapshot IDs
// ("{storageClassName}|{name}"), node IDs ("{nodeName}|{nodeIP}"), and the names the agent accepts.
package id

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

const (
	// MaxNameLen is the longest volume, snapshot or tenant name in bytes that the agent accepts.
	MaxNameLen = 128
	// MaxVolumeIDLen is the longest volume or snapshot ID in bytes (CSI spec, "Size Limits": 128 bytes for a
	// string field without a limit of its own).
	MaxVolumeIDLen = 128
	// MaxNodeIDLen is the longest node ID in bytes that fits Kubernetes' CSINode.spec.drivers[].nodeID
	// (k8s.io/api/storage/v1, validation maxLength 192).
	MaxNodeIDLen = 192

	// maxClassLen is how much of a volume ID the class may take; the rest is for the name.
	maxClassLen = 63
	hashLen     = 16 // hex digits: 64 bits

	// maxNodeNameLen leaves room for the longest address, which is 39 bytes of IPv6.
	maxNodeNameLen = MaxNodeIDLen - len(separator) - len("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
)

// ValidateName checks a volume, snapshot or tenant name: [A-Za-z0-9][A-Za-z0-9._-]{0,127}, and not "snapshots",
// which is a directory of the agent's own. The error names the rule that is broken.
func ValidateName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("must not be empty")
	case len(name) > MaxNameLen:
		return fmt.Errorf("is %d bytes long, the limit is %d", len(name), MaxNameLen)
	case !isAlphanumeric(name[0]):
		return fmt.Errorf("must begin with a letter or a digit")
	case name == "snapshots":
		return fmt.Errorf("must not be %q, which is reserved", name)
	}
	for i := range len(name) {
		if !isNameByte(name[i]) {
			return fmt.Errorf("may hold only letters, digits, '.', '_' and '-' (byte %d is %q)", i, name[i])
		}
	}
	return nil
}

// AgentName turns any CSI name into one that the agent accepts and that fits a volume ID of the class. A name
// that already does is kept. Any other is cut, cleaned and given a hash of the whole, so that the same name always gives
// the same result and different names do not meet.
func AgentName(class, csiName string) string {
	limit := MaxVolumeIDLen - len(ClassKey(class)) - len(separator)
	if len(csiName) <= limit && ValidateName(csiName) == nil {
		return csiName
	}
	return shorten(csiName, limit)
}

// ClassKey is the form of a StorageClass name that stands in volume IDs: the name itself, or, where it is longer
// than 63 bytes, a prefix and a hash of the whole. To resolve an ID, compare the keys of the known classes.
func ClassKey(class string) string {
	if len(class) <= maxClassLen {
		return class
	}
	return shorten(class, maxClassLen)
}

func shorten(s string, limit int) string {
	sum := sha256.Sum256([]byte(s))
	suffix := "-" + hex.EncodeToString(sum[:])[:hashLen]
	prefix := clean(s)
	if keep := limit - len(suffix); len(prefix) > keep {
		prefix = prefix[:keep]
	}
	return prefix + suffix
}

// clean replaces what a name may not hold. The first byte is a letter or digit.
func clean(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch {
		case isNameByte(s[i]):
			b.WriteByte(s[i])
		default:
			b.WriteByte('-')
		}
	}
	if out := b.String(); out != "" && isAlphanumeric(out[0]) {
		return out
	}
	return "v" + b.String()
}

func isNameByte(c byte) bool {
	return isAlphanumeric(c) || c == '.' || c == '_' || c == '-'
}

func isAlphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
