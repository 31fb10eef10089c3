package agentapi

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// The values that the contract allows in text fields. The agent refuses all others. The controller
// also refuses them if it can name the invalid parameter or annotation.

const (
	labelKeyPattern   = `^[a-z0-9][a-z0-9._-]{0,62}$`
	labelValuePattern = `^[A-Za-z0-9._-]{0,128}$`
)

var (
	labelKey   = regexp.MustCompile(labelKeyPattern)
	labelValue = regexp.MustCompile(labelValuePattern)
	requestID  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$`)
)

// ValidRequestID reports whether the agent keeps a caller's request ID. The ID is short and plain,
// because it goes into logs. A caller with another ID generates a new one. Driver and agent must
// apply the same rule: an ID that only one of them keeps does not find a call in both logs.
func ValidRequestID(id string) bool { return requestID.MatchString(id) }

// CheckLabelKey checks the key of a label.
func CheckLabelKey(key string) error {
	if !labelKey.MatchString(key) {
		return fmt.Errorf("key %q must match %s", key, labelKeyPattern)
	}
	return nil
}

// CheckLabel checks a label's key and value.
func CheckLabel(key, value string) error {
	if err := CheckLabelKey(key); err != nil {
		return err
	}
	if !labelValue.MatchString(value) {
		return fmt.Errorf("value %q of %q must match %s", value, key, labelValuePattern)
	}
	return nil
}

// CheckCompression checks a compression setting: none, lzo, zstd[:1-15] or zlib[:1-9].
func CheckCompression(value string) error {
	algorithm, level, hasLevel := strings.Cut(value, ":")
	highest, known := map[string]int{"none": 0, "lzo": 0, "zstd": 15, "zlib": 9}[algorithm]
	if !known {
		return fmt.Errorf("%q is not one of none, lzo, zstd[:1-15], zlib[:1-9]", value)
	}
	if !hasLevel {
		return nil
	}
	n, err := strconv.Atoi(level)
	if err != nil || n < 1 || n > highest || strconv.Itoa(n) != level {
		return fmt.Errorf("%q: the level must be from 1 to %d (lzo and none have no level)", value, highest)
	}
	return nil
}
