package mountoptions

import (
	"fmt"
	"net/netip"
	"strings"
)

const maxHostLen = 253 // a DNS name in text (RFC 1035 section 2.3.4, less the length bytes)

// CheckServer checks the name or address of an NFS server. An IPv6 address has no brackets. It also
// refuses names that mount.nfs(8) could take for an option.
func CheckServer(server string) error {
	if ip, err := netip.ParseAddr(server); err == nil {
		if ip.Zone() != "" || ip.IsUnspecified() || ip.IsMulticast() {
			return fmt.Errorf("must be the address of one host, got %q", server)
		}
		return nil
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(server, "."), ".") {
		if len(server) > maxHostLen || !isHostLabel(label) {
			return fmt.Errorf("must be a host name, an IPv4 address, or an IPv6 address without brackets, got %q", server)
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
