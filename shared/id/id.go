package id

import (
	"fmt"
	"net/netip"
	"strings"
)

const separator = "|"

// Volume identifies a volume or a snapshot across StorageClasses.
type Volume struct {
	Class string // key of the StorageClass, see ClassKey
	Name  string // name on the agent
}

// NewVolume returns the ID for an agent name in a class. Names from CSI need AgentName first.
func NewVolume(class, name string) Volume {
	return Volume{Class: ClassKey(class), Name: name}
}

// ParseVolume parses "{storageClassName}|{name}". The error names the invalid part.
func ParseVolume(s string) (Volume, error) {
	if len(s) > MaxVolumeIDLen {
		return Volume{}, fmt.Errorf("id must be at most %d bytes long, got %d", MaxVolumeIDLen, len(s))
	}
	class, name, found := strings.Cut(s, separator)
	if !found {
		return Volume{}, fmt.Errorf("id must be {storageClassName}|{name}, got %q", s)
	}
	if err := validateClass(class); err != nil {
		return Volume{}, fmt.Errorf("storage class in id %q %w", s, err)
	}
	if err := ValidateName(name); err != nil {
		return Volume{}, fmt.Errorf("name in id %q %w", s, err)
	}
	return Volume{Class: class, Name: name}, nil
}

// String returns the ID in its CSI form.
func (v Volume) String() string { return v.Class + separator + v.Name }

// validateClass allows the bytes of a Kubernetes object name (DNS-1123 subdomain). It also allows
// upper case and '_' for orchestrators with wider rules.
func validateClass(class string) error {
	switch {
	case class == "":
		return fmt.Errorf("must not be empty")
	case len(class) > maxClassLen:
		return fmt.Errorf("must be at most %d bytes long, got %d", maxClassLen, len(class))
	case !isAlphanumeric(class[0]):
		return fmt.Errorf("must begin with a letter or a digit")
	}
	for i := range len(class) {
		if !isNameByte(class[i]) {
			return fmt.Errorf("may hold only letters, digits, '.', '_' and '-' (byte %d is %q)", i, class[i])
		}
	}
	return nil
}

// Node identifies a worker node and the address that it mounts from.
type Node struct {
	Name string
	IP   netip.Addr // IPv4 or IPv6, without a zone
}

// NewNode returns a node's ID. It shortens a node name that is too long for Kubernetes' 192 bytes
// and adds a hash of the full name. The result does not depend on the address: a node whose address
// changed is still found by its name.
func NewNode(name string, ip netip.Addr) Node {
	if len(name) > maxNodeNameLen {
		name = shorten(name, maxNodeNameLen)
	}
	return Node{Name: name, IP: ip.Unmap().WithZone("")}
}

// ParseNode parses "{nodeName}|{nodeIP}". It converts an IPv4-mapped IPv6 address to IPv4.
func ParseNode(s string) (Node, error) {
	if len(s) > MaxNodeIDLen {
		return Node{}, fmt.Errorf("node id must be at most %d bytes long, got %d", MaxNodeIDLen, len(s))
	}
	name, address, found := strings.Cut(s, separator)
	if !found {
		return Node{}, fmt.Errorf("node id must be {nodeName}|{nodeIP}, got %q", s)
	}
	if name == "" || clean(name) != name {
		return Node{}, fmt.Errorf("node name in node id %q must begin with a letter or a digit and hold only letters, digits, '.', '_' and '-'", s)
	}
	ip, err := ParseClient(address)
	if err != nil {
		return Node{}, fmt.Errorf("address in node id %q: %w", s, err)
	}
	return Node{Name: name, IP: ip}, nil
}

// String returns the ID in its CSI form.
func (n Node) String() string { return n.Name + separator + n.IP.String() }

// ParseClient parses the address of an NFS client: one IPv4 or IPv6 host without a zone. It refuses
// host names, wildcards, and unspecified and multicast addresses. It converts an IPv4-mapped IPv6
// address to IPv4.
func ParseClient(s string) (netip.Addr, error) {
	ip, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return netip.Addr{}, fmt.Errorf("%q is not an IPv4 or IPv6 address", s)
	case ip.Zone() != "":
		return netip.Addr{}, fmt.Errorf("%q has a zone, which an NFS export cannot hold", s)
	case ip.IsUnspecified() || ip.IsMulticast():
		return netip.Addr{}, fmt.Errorf("%q is not the address of one host", s)
	}
	return ip.Unmap(), nil
}
