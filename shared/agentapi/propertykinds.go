package agentapi

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/mountoptions"
)

// kind is how the values of a property are read and written.
type kind[T any] struct {
	parse  func(text string) (T, error)
	format func(T) string
}

var boolean = kind[bool]{
	parse: func(text string) (bool, error) {
		on, err := strconv.ParseBool(text)
		if err != nil {
			return false, fmt.Errorf("must be true or false, got %q", text)
		}
		return on, nil
	},
	format: strconv.FormatBool,
}

var onOff = kind[bool]{
	parse: func(text string) (bool, error) {
		if text != "on" && text != "off" {
			return false, fmt.Errorf("must be on or off, got %q", text)
		}
		return text == "on", nil
	},
	format: func(on bool) string {
		if on {
			return "on"
		}
		return "off"
	},
}

var compression = kind[string]{
	parse: func(text string) (string, error) {
		if err := CheckCompression(text); err != nil {
			return "", fmt.Errorf("is wrong: %w", err)
		}
		return text, nil
	},
	format: func(value string) string {
		if value == "" {
			return "none"
		}
		return value
	},
}

// owner allows the IDs that the kernel allows: every 32-bit ID except the last, which means "none"
// (user_namespaces(7)). The agent may allow fewer IDs and reports that itself.
var owner = kind[int64]{
	parse: func(text string) (int64, error) {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 || n >= math.MaxUint32 {
			return 0, fmt.Errorf("must be a number from 0 to %d, got %q", int64(math.MaxUint32)-1, text)
		}
		return n, nil
	},
	format: func(n int64) string { return strconv.FormatInt(n, 10) },
}

// mode keeps the text as it is. 0770 and 770 are equal.
var mode = kind[string]{
	parse: func(text string) (string, error) {
		_, err := ParseMode(text)
		return text, err
	},
	format: func(text string) string {
		bits, err := ParseMode(text)
		if err != nil {
			return text
		}
		return FormatMode(bits)
	},
}

var options = kind[[]string]{
	parse: func(text string) ([]string, error) {
		list, err := mountoptions.Parse(text)
		if err != nil {
			return nil, err
		}
		if err := mountoptions.Check(list); err != nil {
			return nil, fmt.Errorf("is wrong: %w", err)
		}
		return append([]string{}, list...), nil // not nil, which JSON encodes as null
	},
	format: func(list []string) string { return strings.Join(list, ",") },
}

// ParseMode reads permission bits as octal text, with or without a leading zero.
func ParseMode(text string) (uint32, error) {
	bits, err := strconv.ParseUint(text, 8, 32)
	if err != nil || bits > 0o7777 || len(text) > len("07777") {
		return 0, fmt.Errorf("must be an octal number from 0 to 7777, got %.32q", text)
	}
	return uint32(bits), nil
}

// FormatMode writes permission bits as the agent does.
func FormatMode(bits uint32) string { return fmt.Sprintf("%04o", bits) }
