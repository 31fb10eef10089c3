package nfsmount

import (
	"fmt"
	"slices"
	"strings"
)

// Defaults are the options of every volume, before those of its class and its capability:
// NFSv4.2; hard, because a soft mount turns a slow server into lost writes (nfs(5), "soft"); and retry=0, so that
// mount.nfs(8) reports the first failure: who asked for the mount asks again.
func Defaults() []string { return []string{"vers=4.2", "hard", "retry=0"} }

const (
	maxOptions   = 64
	maxOptionLen = 128 // bytes of one option
)

// forbidden options and why. They are not about how a volume is mounted but about what, where or by whom.
var forbidden = map[string]string{
	"bg":         "the mount would appear after the call has failed",
	"addr":       "the server is named by the volume",
	"mountaddr":  "the server is named by the volume",
	"mounthost":  "the server is named by the volume",
	"bind":       "only an NFS mount can be made here",
	"rbind":      "only an NFS mount can be made here",
	"move":       "only an NFS mount can be made here",
	"remount":    "only an NFS mount can be made here",
	"loop":       "only an NFS mount can be made here",
	"helper":     "it names a program to run",
	"uhelper":    "it names a program to run",
	"user":       "the driver alone unmounts what it mounts",
	"users":      "the driver alone unmounts what it mounts",
	"owner":      "the driver alone unmounts what it mounts",
	"group":      "the driver alone unmounts what it mounts",
	"nofail":     "a failure must be reported",
	"shared":     "propagation belongs to the orchestrator",
	"private":    "propagation belongs to the orchestrator",
	"slave":      "propagation belongs to the orchestrator",
	"unbindable": "propagation belongs to the orchestrator",
}

// groups name options that exclude each other; the last one given counts. Other options exclude their own name and, with
// "no" before it, its opposite.
var groups = map[string]string{
	"vers": "vers", "nfsvers": "vers", "minorversion": "minorversion", "v4": "vers", "v4.0": "vers", "v4.1": "vers", "v4.2": "vers",
	"hard": "hard", "soft": "hard", "softerr": "hard",
	"ro": "ro", "rw": "ro",
	"proto": "proto", "tcp": "proto", "udp": "proto", "rdma": "proto",
	"sync": "sync", "async": "sync",
	"suid": "suid", "nosuid": "suid",
	"relatime": "atime", "norelatime": "atime", "strictatime": "atime", "nostrictatime": "atime", "atime": "atime", "noatime": "atime",
}

// MergeOptions joins lists of mount options; later lists win. An option replaces, in place, an earlier one that it excludes:
// the same name with another value, its "no" form, another version, hard or soft, ro or rw. Empty entries are dropped.
// The error is ErrInvalid and names the option and the reason.
func MergeOptions(lists ...[]string) ([]string, error) {
	var merged, keys []string
	for _, option := range slices.Concat(lists...) {
		if option == "" {
			continue
		}
		if err := validateOption(option); err != nil {
			return nil, fmt.Errorf("%w mount option %q: %w", ErrInvalid, option, err)
		}
		key := groupOf(option)
		if i := slices.Index(keys, key); i >= 0 {
			merged[i] = option
			continue
		}
		merged, keys = append(merged, option), append(keys, key)
	}
	if len(merged) > maxOptions {
		return nil, fmt.Errorf("%w mount options: %d given, the limit is %d", ErrInvalid, len(merged), maxOptions)
	}
	return merged, nil
}

// SplitOptions takes a comma-separated list apart.
func SplitOptions(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

func groupOf(option string) string {
	name, _, _ := strings.Cut(option, "=")
	if group, ok := groups[name]; ok {
		return group
	}
	return strings.TrimPrefix(name, "no")
}

func validateOption(option string) error {
	name, value, hasValue := strings.Cut(option, "=")
	switch {
	case len(option) > maxOptionLen:
		return fmt.Errorf("is %d bytes long, the limit is %d", len(option), maxOptionLen)
	case !isOptionName(name):
		return fmt.Errorf("its name must be lower-case letters, digits, '_', '.' and '-', and begin with a letter")
	case hasValue && !isOptionValue(value):
		return fmt.Errorf("its value must be letters, digits and any of . _ : / @ + - %%")
	case strings.HasPrefix(name, "x-"):
		return fmt.Errorf("not allowed: it speaks to other programs")
	case strings.HasPrefix(name, "make-"):
		return fmt.Errorf("not allowed: propagation belongs to the orchestrator")
	}
	if reason, ok := forbidden[name]; ok {
		return fmt.Errorf("not allowed: %s", reason)
	}
	return validateVersion(name, value)
}

// validateVersion keeps to NFSv4: versions 2 and 3 know no per-client revocation and need helpers that the node has not.
func validateVersion(name, value string) error {
	versions := []string{"4", "4.0", "4.1", "4.2"}
	switch {
	case (name == "vers" || name == "nfsvers") && !slices.Contains(versions, value):
		return fmt.Errorf("only NFS versions %s are supported", strings.Join(versions, ", "))
	case name == "v2" || name == "v3":
		return fmt.Errorf("only NFS versions %s are supported", strings.Join(versions, ", "))
	}
	return nil
}

func isOptionName(s string) bool {
	if s == "" || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_' && r != '.' && r != '-'
	}) < 0
}

func isOptionValue(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._:/@+-%", r)
	}) < 0
}
