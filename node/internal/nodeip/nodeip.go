// Package nodeip finds the address from which this node mounts volumes, which is the one that the storage host lets in.
package nodeip

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Choice says which address to take. The first that is set counts: IP; Interface (with CIDR: an address of it inside
// of that); CIDR. With none, the address of the default route counts, and where there is no route, the one that the
// host name stands for.
type Choice struct {
	IP        string
	Interface string
	CIDR      string
	HostName  string // this node's name
}

// Interface is a network interface with its addresses in the kernel's order.
type Interface struct {
	Name      string
	Up        bool
	Addresses []netip.Addr
}

// Network is what is asked of the machine.
type Network interface {
	Interfaces() ([]Interface, error)
	// RouteSource is the address with which a packet to the other would leave. Nothing is sent.
	RouteSource(to netip.Addr) (netip.Addr, error)
	Lookup(host string) ([]netip.Addr, error)
}

// Find applies the choice. IPv4 goes before IPv6. An address that others cannot use is never the answer: link-local,
// multicast, unspecified, and, unless given as IP, loopback. The error names the setting and what was found in place of it.
func Find(c Choice, network Network) (netip.Addr, error) {
	if c.IP != "" {
		return explicit(c.IP)
	}
	if c.Interface != "" || c.CIDR != "" {
		return onInterface(c, network)
	}
	if ip, ok := ofDefaultRoute(network); ok {
		return ip, nil
	}
	return ofHostName(c.HostName, network)
}

func explicit(s string) (netip.Addr, error) {
	ip, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("node address %q is not an IPv4 or IPv6 address", s)
	}
	ip = ip.Unmap()
	if ip.Zone() != "" || !isUsable(ip) && !ip.IsLoopback() {
		return netip.Addr{}, fmt.Errorf("node address %s cannot be used: it is link-local, multicast or unspecified", s)
	}
	return ip, nil
}

func onInterface(c Choice, network Network) (netip.Addr, error) {
	within := func(netip.Addr) bool { return true }
	if c.CIDR != "" {
		prefix, err := netip.ParsePrefix(c.CIDR)
		if err != nil {
			return netip.Addr{}, fmt.Errorf("storage network %q is not of the form 10.1.0.0/16 or fd00:1::/64", c.CIDR)
		}
		within = prefix.Contains
	}
	interfaces, err := network.Interfaces()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("listing network interfaces: %w", err)
	}
	var seen []string
	var candidates []netip.Addr
	for _, i := range interfaces {
		if c.Interface != "" && i.Name != c.Interface {
			seen = append(seen, i.Name)
			continue
		}
		if !i.Up {
			seen = append(seen, i.Name+" (down)")
			continue
		}
		for _, ip := range i.Addresses {
			if ip = ip.Unmap(); isUsable(ip) && within(ip) {
				candidates = append(candidates, ip)
			}
			seen = append(seen, fmt.Sprintf("%s %s", i.Name, ip))
		}
	}
	if ip, ok := first(candidates); ok {
		return ip, nil
	}
	return netip.Addr{}, fmt.Errorf("no usable address for storage (interface %q, network %q); there are: %v", c.Interface, c.CIDR, seen)
}

func ofDefaultRoute(network Network) (netip.Addr, bool) {
	// Addresses of documentation networks (RFC 5737, RFC 3849), so that no route but the default one leads there.
	for _, to := range []string{"192.0.2.1", "2001:db8::1"} {
		if ip, err := network.RouteSource(netip.MustParseAddr(to)); err == nil && isUsable(ip.Unmap()) {
			return ip.Unmap(), true
		}
	}
	return netip.Addr{}, false
}

func ofHostName(host string, network Network) (netip.Addr, error) {
	if host == "" {
		return netip.Addr{}, errors.New("no default route, and no host name to look up: name the address, interface or network for storage")
	}
	found, err := network.Lookup(host)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("no default route, and %w: name the address, interface or network for storage", err)
	}
	candidates := slices.DeleteFunc(slices.Clone(found), func(ip netip.Addr) bool { return !isUsable(ip.Unmap()) })
	if ip, ok := first(candidates); ok {
		return ip.Unmap(), nil
	}
	return netip.Addr{}, fmt.Errorf("no default route, and %q stands for %v, which cannot be used: name the address, interface or network for storage", host, found)
}

// first is the first IPv4 address, else the first.
func first(candidates []netip.Addr) (netip.Addr, bool) {
	if i := slices.IndexFunc(candidates, netip.Addr.Is4); i >= 0 {
		return candidates[i], true
	}
	if len(candidates) == 0 {
		return netip.Addr{}, false
	}
	return candidates[0], true
}

// isUsable leaves out link-local, multicast, unspecified, broadcast and loopback addresses.
func isUsable(ip netip.Addr) bool { return ip.IsGlobalUnicast() }
