package nodeip

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// lookupTimeout limits a name lookup: a driver that waits for DNS does not answer its liveness
// probe.
const lookupTimeout = 2 * time.Second

// Machine is this machine's network.
type Machine struct{}

// Interfaces lists the interfaces of this network namespace.
func (Machine) Interfaces() ([]Interface, error) {
	found, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	out := make([]Interface, 0, len(found))
	for _, i := range found {
		addresses, err := i.Addrs()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", i.Name, err)
		}
		entry := Interface{Name: i.Name, Up: i.Flags&net.FlagUp != 0, Loopback: i.Flags&net.FlagLoopback != 0}
		for _, a := range addresses {
			if prefix, err := netip.ParsePrefix(a.String()); err == nil {
				entry.Addresses = append(entry.Addresses, prefix)
			}
		}
		out = append(out, entry)
	}
	return out, nil
}

// RouteSource connects a UDP socket, which sends nothing, and reads its own address.
func (Machine) RouteSource(to netip.Addr) (netip.Addr, error) {
	const anyPort = 9 // discard
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, anyPort)))
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr(), nil
}

// Lookup asks the resolver, for at most 2 seconds.
func (Machine) Lookup(host string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}
