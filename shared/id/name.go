// Package id formats and parses the identifiers that components exchange: volume and snapshot IDs
// ("{storageClassName}|{name}"), node IDs ("{nodeName}|{nodeIP}"), and the names that the agent
// accepts.
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
	// MaxVolumeIDLen is the longest volume or snapshot ID in bytes. CSI spec, "Size Limits": 128 bytes
	// for a string field without an explicit limit.
	MaxVolumeIDLen = 128
	// MaxNodeIDLen is the longest node ID in bytes that fits Kubernetes' CSINode.spec.drivers[].nodeID
	// (k8s.io/api/storage/v1, validation maxLength 192).
	MaxNodeIDLen = 192

	// maxClassLen is the maximum part of a volume ID for the class. The rest is for the name.
	maxClassLen = 63
	hashLen     = 16 // hex digits: 64 bits

	// maxNodeNameLen leaves room for the longest address, which is 39 bytes of IPv6.
	maxNodeNameLen = MaxNodeIDLen - len(separator) - len("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
)

// ValidateName checks a volume, snapshot or tenant name: [A-Za-z0-9][A-Za-z0-9._-]{0,127}, and not
// "snapshots", which is the agent's directory. The error names the violated rule.
func ValidateName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("must not be empty")
	case len(name) > MaxNameLen:
		return fmt.Errorf("must be at most %d bytes long, got %d", MaxNameLen, len(name))
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

// AgentName converts a CSI name to a name that the agent accepts and that fits a volume ID of the
// class. A valid name stays as it is. Any other name is truncated, cleaned and given a hash of the
// full name. So the same name always gives the same result, and different names do not collide.
func AgentName(class, csiName string) string {
	limit := MaxVolumeIDLen - len(ClassKey(class)) - len(separator)
	if len(csiName) <= limit && ValidateName(csiName) == nil {
		return csiName
	}
	return shorten(csiName, limit)
}

// ClassKey returns the form of a StorageClass name in volume IDs. This is the name, or a prefix and
// a hash of the full name if the name is longer than 63 bytes. To resolve an ID, compare the keys
// of the known classes.
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

// clean replaces bytes that a name may not contain. The first byte becomes a letter or digit.
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
