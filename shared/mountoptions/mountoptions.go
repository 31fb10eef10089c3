// Package mountoptions has the rules for the NFS mount options of volumes. The controller, the
// agent and the node driver use the same rules, so that an option which a node refuses is refused
// before a volume is created with it.
package mountoptions

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Defaults returns the options of every volume. Those of its class, of the volume and of its
// capability override them. hard: a soft mount turns a slow server into lost writes (nfs(5),
// "soft"). retry=0: mount.nfs(8) reports the first failure, and the orchestrator retries.
func Defaults() []string { return []string{"vers=4.2", "hard", "retry=0"} }

const (
	// Max is the maximum number of options of a list, and of a mount.
	Max = 64
	// MaxListLen limits a list in bytes, joined by commas.
	MaxListLen = 1024

	maxOptionLen = 128  // bytes
	maxMountLen  = 3072 // bytes of a mount's options: mount(2) accepts one page, and mount.nfs(8) adds to it
)

// forbidden maps forbidden options to the reason. They do not say how a volume is mounted but what,
// where or by whom.
var forbidden = map[string]string{
	"bg":         "the mount would appear after the call has failed",
	"addr":       "the server is named by the volume",
	"mountaddr":  "the server is named by the volume",
	"mounthost":  "the server is named by the volume",
	"udp":        "NFSv4 needs tcp or rdma",
	"bind":       "only an NFS mount can be made here",
	"rbind":      "only an NFS mount can be made here",
	"move":       "only an NFS mount can be made here",
	"remount":    "only an NFS mount can be made here",
	"loop":       "only an NFS mount can be made here",
	"offset":     "only an NFS mount can be made here",
	"sizelimit":  "only an NFS mount can be made here",
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

// forbiddenPrefixes maps forbidden prefixes of names to the reason.
var forbiddenPrefixes = map[string]string{
	"x-":    "it speaks to other programs",
	"make-": "propagation belongs to the orchestrator",
}

type interval struct{ least, most uint64 }

// numbers maps the options with a numeric value to the range that the kernel's client accepts
// (fs/nfs/fs_context.c). retry is an option of mount.nfs(8).
var numbers = map[string]interval{
	"timeo": {1, math.MaxInt32}, "retrans": {0, math.MaxInt32}, "retry": {0, math.MaxInt32},
	"rsize": {0, math.MaxUint32}, "wsize": {0, math.MaxUint32}, "bsize": {0, math.MaxUint32}, "namlen": {0, math.MaxUint32},
	"acregmin": {0, math.MaxUint32}, "acregmax": {0, math.MaxUint32}, "actimeo": {0, math.MaxUint32},
	"acdirmin": {0, math.MaxUint32}, "acdirmax": {0, math.MaxUint32},
	"port": {0, math.MaxUint16}, "mountport": {0, math.MaxUint16},
	"nconnect": {1, 16}, "max_connect": {1, 16}, "minorversion": {0, 2},
}

// versions allows only NFSv4. Versions 2 and 3 have no per-client revocation, and need helpers that
// the node does not have.
func versions() []string { return []string{"4", "4.0", "4.1", "4.2"} }

// keys maps options that exclude each other to one key. Other options exclude their own name and
// its opposite with the prefix "no".
var keys = map[string]string{
	"vers": "vers", "nfsvers": "vers", "minorversion": "minorversion", "v4": "vers", "v4.0": "vers", "v4.1": "vers", "v4.2": "vers",
	"hard": "hard", "soft": "hard", "softerr": "hard",
	"ro": "ro", "rw": "ro",
	"proto": "proto", "tcp": "proto", "rdma": "proto",
	"sync": "sync", "async": "sync",
	"suid": "suid", "nosuid": "suid",
	"relatime": "atime", "norelatime": "atime", "strictatime": "atime", "nostrictatime": "atime", "atime": "atime", "noatime": "atime",
}

// Key returns the same text for options that exclude each other: the same name with another value,
// its "no" form, another version, hard or soft, ro or rw.
func Key(option string) string {
	name, _, _ := strings.Cut(option, "=")
	if key, ok := keys[name]; ok {
		return key
	}
	return strings.TrimPrefix(name, "no")
}

// Parse reads options that are separated by commas, without a check of the options themselves.
func Parse(text string) ([]string, error) {
	if text == "" {
		return nil, nil
	}
	var out []string
	for option := range strings.SplitSeq(text, ",") {
		option = strings.TrimSpace(option)
		if option == "" {
			return nil, fmt.Errorf("has an empty option in %q", text)
		}
		out = append(out, option)
	}
	return out, nil
}

// Split splits items such as "ro,hard", as mount -o does, and drops empty ones.
func Split(items ...string) []string {
	var options []string
	for _, item := range items {
		options = append(options, strings.Split(item, ",")...)
	}
	return slices.DeleteFunc(options, func(option string) bool { return option == "" })
}

// Check checks the options that are stored for a volume. An item may hold several options,
// separated by commas. The error names the option and the rule.
func Check(items []string) error {
	if joined := len(strings.Join(items, ",")); joined > MaxListLen {
		return fmt.Errorf("mount options must be at most %d bytes long, got %d", MaxListLen, joined)
	}
	if slices.ContainsFunc(items, func(item string) bool { return slices.Contains(strings.Split(item, ","), "") }) {
		return fmt.Errorf("mount options must not contain an empty option, got %q", items)
	}
	_, err := Merge(items)
	return err
}

// Merge joins lists of options for one mount. An option replaces, in place, an earlier one that it
// excludes (see Key). It splits items like Split. The error names the option and the rule.
func Merge(lists ...[]string) ([]string, error) {
	var merged, mergedKeys []string
	for _, option := range Split(slices.Concat(lists...)...) {
		if err := check(option); err != nil {
			return nil, fmt.Errorf("mount option %q %w", option, err)
		}
		key := Key(option)
		if i := slices.Index(mergedKeys, key); i >= 0 {
			merged[i] = option
			continue
		}
		merged, mergedKeys = append(merged, option), append(mergedKeys, key)
	}
	if len(merged) > Max {
		return nil, fmt.Errorf("mount options must have at most %d options, got %d", Max, len(merged))
	}
	if joined := len(strings.Join(merged, ",")); joined > maxMountLen {
		return nil, fmt.Errorf("mount options must be at most %d bytes long, got %d", maxMountLen, joined)
	}
	return merged, nil
}

func check(option string) error {
	name, value, hasValue := strings.Cut(option, "=")
	switch {
	case len(option) > maxOptionLen:
		return fmt.Errorf("must be at most %d bytes long, got %d", maxOptionLen, len(option))
	case !isName(name):
		return fmt.Errorf("must have a name of lower-case letters, digits, '_', '.' and '-' that begins with a letter")
	case hasValue && !isValue(value):
		return fmt.Errorf("must have a value of letters, digits and any of . _ : / @ + - %%")
	}
	if reason, ok := forbidden[name]; ok {
		return fmt.Errorf("is not allowed: %s", reason)
	}
	for prefix, reason := range forbiddenPrefixes {
		if strings.HasPrefix(name, prefix) {
			return fmt.Errorf("is not allowed: %s", reason)
		}
	}
	return checkValue(name, value)
}

func checkValue(name, value string) error {
	limits, isNumber := numbers[name]
	switch {
	case (name == "vers" || name == "nfsvers") && !slices.Contains(versions(), value), name == "v2", name == "v3":
		return fmt.Errorf("is not allowed: only NFS versions %s are supported", strings.Join(versions(), ", "))
	case name == "proto" && strings.HasPrefix(value, "udp"):
		return fmt.Errorf("is not allowed: %s", forbidden["udp"])
	case isNumber && !limits.hold(value):
		return fmt.Errorf("must have a number from %d to %d", limits.least, limits.most)
	}
	return nil
}

// hold accepts the kernel's notations (lib/kstrtox.c): decimal, 0x, and 0 before octal digits. Go
// accepts more.
func (i interval) hold(value string) bool {
	if strings.ContainsAny(value, "_oO") || strings.HasPrefix(strings.ToLower(value), "0b") {
		return false
	}
	number, err := strconv.ParseUint(value, 0, 32)
	return err == nil && i.least <= number && number <= i.most
}

func isName(s string) bool {
	if s == "" || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_' && r != '.' && r != '-'
	}) < 0
}

func isValue(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._:/@+-%", r)
	}) < 0
}

// Override joins lists. Each list overrides those before it. If two lists set the same option, only
// the later one remains, because mount.nfs does not document which of the two applies (nfs(5)).
func Override(lists ...[]string) []string {
	var out []string
	for i, list := range lists {
		overridden := map[string]bool{}
		for _, option := range slices.Concat(lists[i+1:]...) {
			overridden[Key(option)] = true
		}
		for _, option := range list {
			if !overridden[Key(option)] {
				out = append(out, option)
			}
		}
	}
	return out
}
