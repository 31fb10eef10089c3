// Package nodeip finds the address from which this node mounts volumes. The storage host lets this
// address in.
package nodeip

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Choice selects the address. The first field that is set applies: IP, then Interface (with CIDR:
// an address of the interface in that network), then CIDR. Of several addresses, Find takes the one
// from which the node reaches the network. If no field is set, it takes the address of the default
// route. Without a route, it takes the address of the host name.
type Choice struct {
	IP        netip.Addr
	Interface string
	CIDR      netip.Prefix
	HostName  string // name of this node
}

// Interface is a network interface with its addresses in the kernel's order. The prefix of an
// address is that of its network.
type Interface struct {
	Name      string
	Up        bool
	Loopback  bool
	Addresses []netip.Prefix
}

// Network is the part of the machine that Find uses.
type Network interface {
	Interfaces() ([]Interface, error)
	// RouteSource returns the source address of a packet to the destination. It sends nothing.
	RouteSource(to netip.Addr) (netip.Addr, error)
	Lookup(host string) ([]netip.Addr, error)
}

// Find applies the choice. IPv4 has priority over IPv6. It never returns an address that other
// machines cannot use: link-local, multicast, unspecified, and, unless given as IP, loopback. The
// error names the setting and the addresses that were found.
func Find(c Choice, network Network) (netip.Addr, error) {
	if c.IP.IsValid() {
		return explicit(c.IP)
	}
	if c.Interface != "" || c.CIDR.IsValid() {
		return onInterface(c, network)
	}
	if ip, ok := ofDefaultRoute(network); ok {
		return ip, nil
	}
	return ofHostName(c.HostName, network)
}

func explicit(ip netip.Addr) (netip.Addr, error) {
	ip = ip.Unmap()
	if ip.Zone() != "" || !isUsable(ip) && !ip.IsLoopback() {
		return netip.Addr{}, fmt.Errorf("node address must not be link-local, multicast or unspecified, got %s", ip)
	}
	return ip, nil
}

func onInterface(c Choice, network Network) (netip.Addr, error) {
	within := c.CIDR.Masked()
	interfaces, err := network.Interfaces()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list network interfaces: %w", err)
	}
	var seen []string
	var candidates []candidate
	for _, i := range interfaces {
		if c.Interface != "" && i.Name != c.Interface {
			seen = append(seen, i.Name)
			continue
		}
		if !i.Up {
			seen = append(seen, i.Name+" (down)")
			continue
		}
		for _, address := range i.Addresses {
			ip := address.Addr().Unmap()
			if isUsable(ip) && (!within.IsValid() || within.Contains(ip)) {
				candidates = append(candidates, candidate{ip: ip, network: address.Masked(), virtual: i.Loopback || address.IsSingleIP()})
			}
			seen = append(seen, fmt.Sprintf("%s %s", i.Name, ip))
		}
	}
	if len(candidates) == 0 {
		cidr, _ := c.CIDR.MarshalText() // empty if it is not set
		return netip.Addr{}, fmt.Errorf("no usable address for storage on interface %q in network %q: this node has %v", c.Interface, cidr, seen)
	}
	slices.SortStableFunc(candidates, candidate.compare)
	return choose(candidates, within, network), nil
}

// candidate is an address that matches the choice.
type candidate struct {
	ip      netip.Addr
	network netip.Prefix // network of the interface
	// virtual addresses are those on the loopback interface and those without a network. Load
	// balancers have such addresses, and several hosts may share one.
	virtual bool
}

// compare puts IPv4 before IPv6, then virtual addresses last, and keeps the kernel's order
// otherwise.
func (c candidate) compare(other candidate) int {
	return cmp.Compare(c.rank(), other.rank())
}

func (c candidate) rank() int {
	if c.virtual {
		return c.ip.BitLen() + 1
	}
	return c.ip.BitLen()
}

// choose returns the candidate that is the source address of a packet to the storage network,
// because servers see that one. The storage network is the configured one, or that of the
// interface. If no route decides, choose returns the first candidate.
func choose(candidates []candidate, storage netip.Prefix, network Network) netip.Addr {
	for _, c := range candidates {
		if c.ip.BitLen() != candidates[0].ip.BitLen() {
			break
		}
		to := storage
		if !to.IsValid() {
			to = c.network
		}
		neighbour, ok := neighbourIn(to, candidates)
		if !ok {
			continue
		}
		source, err := network.RouteSource(neighbour)
		if err == nil && slices.ContainsFunc(candidates, func(c candidate) bool { return c.ip == source.Unmap() }) {
			return source.Unmap()
		}
	}
	return candidates[0].ip
}

// neighbourIn returns an address of the network that does not belong to this node: a packet to an
// own address would not leave the node.
func neighbourIn(network netip.Prefix, own []candidate) (netip.Addr, bool) {
	for ip := network.Addr().Next(); network.Contains(ip); ip = ip.Next() {
		if !slices.ContainsFunc(own, func(c candidate) bool { return c.ip == ip }) {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

// SourceTo returns the address from which this node reaches a host, which is a name or an address.
func SourceTo(host string, network Network) (netip.Addr, error) {
	ip, err := netip.ParseAddr(host)
	if err != nil {
		found, err := network.Lookup(host)
		if err != nil {
			return netip.Addr{}, err
		}
		if len(found) == 0 {
			return netip.Addr{}, fmt.Errorf("%s has no address", host)
		}
		ip = found[0]
	}
	source, err := network.RouteSource(ip.Unmap())
	return source.Unmap(), err
}

func ofDefaultRoute(network Network) (netip.Addr, bool) {
	// Addresses of documentation networks (RFC 5737, RFC 3849), so that only the default route leads
	// to them.
	for _, to := range []string{"192.0.2.1", "2001:db8::1"} {
		if ip, err := network.RouteSource(netip.MustParseAddr(to)); err == nil && isUsable(ip.Unmap()) {
			return ip.Unmap(), true
		}
	}
	return netip.Addr{}, false
}

func ofHostName(host string, network Network) (netip.Addr, error) {
	if host == "" {
		return netip.Addr{}, errors.New("no default route, and no host name to look up: set DRIVER_NODE_IP, DRIVER_STORAGE_INTERFACE or DRIVER_STORAGE_CIDR")
	}
	found, err := network.Lookup(host)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("no default route, and %w: set DRIVER_NODE_IP, DRIVER_STORAGE_INTERFACE or DRIVER_STORAGE_CIDR", err)
	}
	var candidates []netip.Addr
	for _, ip := range found {
		if isUsable(ip.Unmap()) {
			candidates = append(candidates, ip.Unmap())
		}
	}
	if len(candidates) > 0 { // IPv4 first
		return slices.MinFunc(candidates, func(a, b netip.Addr) int { return cmp.Compare(a.BitLen(), b.BitLen()) }), nil
	}
	return netip.Addr{}, fmt.Errorf("no default route, and %q resolves to unusable %v: set DRIVER_NODE_IP, DRIVER_STORAGE_INTERFACE or DRIVER_STORAGE_CIDR", host, found)
}

// isUsable excludes link-local, multicast, unspecified, broadcast and loopback addresses.
func isUsable(ip netip.Addr) bool { return ip.IsGlobalUnicast() }
