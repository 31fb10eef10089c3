package nfsmount

import (
	"fmt"
	"net/netip"
	"path"
	"strings"
	"unicode"
)

const (
	maxHostLen = 253  // a DNS name in text (RFC 1035 section 2.3.4, less the length bytes)
	maxPathLen = 4095 // PATH_MAX without the final NUL (linux/limits.h)
)

// Source is the directory of a volume on an NFS server.
type Source struct {
	Server string // host name, IPv4 address, or IPv6 address without brackets
	Path   string // absolute and clean
}

// NewSource checks both parts. Errors are ErrInvalid and name the part.
func NewSource(server, dir string) (Source, error) {
	if err := validateServer(server); err != nil {
		return Source{}, fmt.Errorf("%w NFS server: %w", ErrInvalid, err)
	}
	if err := ValidatePath(dir); err != nil {
		return Source{}, fmt.Errorf("%w NFS path: %w", ErrInvalid, err)
	}
	return Source{Server: server, Path: path.Clean(dir)}, nil
}

// String returns the form of mount(8) and mountinfo: an IPv6 address in brackets (nfs(5), "MOUNT
// OPTIONS").
func (s Source) String() string {
	if strings.Contains(s.Server, ":") {
		return "[" + s.Server + "]:" + s.Path
	}
	return s.Server + ":" + s.Path
}

func validateServer(server string) error {
	switch {
	case server == "":
		return fmt.Errorf("must not be empty")
	case len(server) > maxHostLen:
		return fmt.Errorf("is %d bytes long, the limit is %d", len(server), maxHostLen)
	}
	if ip, err := netip.ParseAddr(server); err == nil {
		if ip.Zone() != "" || ip.IsUnspecified() || ip.IsMulticast() {
			return fmt.Errorf("%q is not the address of one host", server)
		}
		return nil
	}
	for _, label := range strings.Split(strings.TrimSuffix(server, "."), ".") {
		if !isHostLabel(label) {
			return fmt.Errorf("%q is neither an IP address (IPv6 without brackets) nor a host name", server)
		}
	}
	return nil
}

// isHostLabel allows the letters, digits and hyphens of RFC 1123 section 2.1, and the underscore
// that some sites use.
func isHostLabel(label string) bool {
	if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
		return false
	}
	return strings.IndexFunc(label, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
	}) < 0
}

// ValidatePath allows an absolute path of at most 4,095 bytes without "..", control characters and
// characters that mount(8) or mountinfo could interpret. It allows spaces and other scripts.
func ValidatePath(p string) error {
	switch {
	case p == "":
		return fmt.Errorf("must not be empty")
	case len(p) > maxPathLen:
		return fmt.Errorf("is %d bytes long, the limit is %d", len(p), maxPathLen)
	case p[0] != '/':
		return fmt.Errorf("%q must be absolute", p)
	case strings.ContainsFunc(p, func(r rune) bool { return unicode.IsControl(r) || r == unicode.ReplacementChar }):
		return fmt.Errorf("%q holds a control character or is not UTF-8", p)
	case path.Clean(p) == "/":
		return fmt.Errorf("must not be the root directory")
	}
	for _, element := range strings.Split(p, "/") {
		if element == ".." {
			return fmt.Errorf("%q must not hold \"..\"", p)
		}
	}
	return nil
}
