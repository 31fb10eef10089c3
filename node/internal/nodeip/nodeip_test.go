package nodeip_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nodeip"
)

type network struct {
	interfaces []nodeip.Interface
	routes     map[bool]string // by whether the destination is IPv4
	hosts      map[string][]netip.Addr
	to         map[string]string // source by destination, before routes
	err        error
}

func (n network) Interfaces() ([]nodeip.Interface, error) { return n.interfaces, n.err }

func (n network) RouteSource(to netip.Addr) (netip.Addr, error) {
	if source, ok := n.to[to.String()]; ok {
		return netip.ParseAddr(source)
	}
	if source, ok := n.routes[to.Is4()]; ok {
		return netip.ParseAddr(source)
	}
	return netip.Addr{}, errors.New("network is unreachable")
}

func (n network) Lookup(host string) ([]netip.Addr, error) {
	if found, ok := n.hosts[host]; ok {
		return found, nil
	}
	return nil, errors.New("no such host")
}

func addresses(all ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range all {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// networks returns addresses with the length of their network, by default /24 or /64.
func networks(all ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range all {
		if !strings.Contains(s, "/") {
			ip := netip.MustParseAddr(s)
			s = fmt.Sprintf("%s/%d", ip, map[bool]int{true: 24, false: 64}[ip.Is4()])
		}
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func worker() network {
	return network{
		interfaces: []nodeip.Interface{
			{Name: "lo", Up: true, Loopback: true, Addresses: networks("127.0.0.1", "::1")},
			{Name: "eth0", Up: true, Addresses: networks("192.168.1.5", "fe80::5", "2001:db8:1::5")},
			{Name: "storage0", Up: true, Addresses: networks("fe80::6", "169.254.3.4", "fd00:9::6", "10.9.0.6")},
			{Name: "v6only", Up: true, Addresses: networks("fe80::7", "fd00:7::7")},
			{Name: "bare", Up: true, Addresses: networks("fe80::8", "169.254.1.1")},
			{Name: "off", Addresses: networks("10.8.0.9")},
		},
		routes: map[bool]string{true: "192.168.1.5", false: "2001:db8:1::5"},
		hosts: map[string][]netip.Addr{
			"worker": addresses("127.0.1.1", "::ffff:172.16.0.4"), "v6": addresses("::1", "fe80::1", "fd00::4"), "self": addresses("127.0.1.1"),
		},
	}
}

func TestFind(t *testing.T) {
	for _, c := range []struct {
		name   string
		choice nodeip.Choice
		want   string
	}{
		{"given", nodeip.Choice{IP: netip.MustParseAddr("10.1.2.3"), Interface: "eth0"}, "10.1.2.3"},
		{"given, IPv6", nodeip.Choice{IP: netip.MustParseAddr("fd00::5")}, "fd00::5"},
		{"given, mapped", nodeip.Choice{IP: netip.MustParseAddr("::ffff:10.1.2.3")}, "10.1.2.3"},
		{"given, agent on the same machine", nodeip.Choice{IP: netip.MustParseAddr("127.0.0.1")}, "127.0.0.1"},
		{"interface", nodeip.Choice{Interface: "eth0"}, "192.168.1.5"},
		{"interface, IPv4 first and never link-local", nodeip.Choice{Interface: "storage0"}, "10.9.0.6"},
		{"interface, IPv6 only", nodeip.Choice{Interface: "v6only"}, "fd00:7::7"},
		{"interface and network", nodeip.Choice{Interface: "storage0", CIDR: netip.MustParsePrefix("fd00:9::/64")}, "fd00:9::6"},
		{"network", nodeip.Choice{CIDR: netip.MustParsePrefix("10.9.0.0/16")}, "10.9.0.6"},
		{"network, IPv6", nodeip.Choice{CIDR: netip.MustParsePrefix("2001:db8:1::/48")}, "2001:db8:1::5"},
		{"network, with host bits", nodeip.Choice{CIDR: netip.MustParsePrefix("10.9.7.7/16")}, "10.9.0.6"},
		{"default route", nodeip.Choice{HostName: "worker"}, "192.168.1.5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ip, err := nodeip.Find(c.choice, worker())
			assert.NilError(t, err)
			assert.Equal(t, ip.String(), c.want)
		})
	}
}

// Servers do not see the address of a load balancer on the node.
func TestVirtualAddresses(t *testing.T) {
	eth0 := func(all ...string) nodeip.Interface {
		return nodeip.Interface{Name: "eth0", Up: true, Addresses: networks(all...)}
	}
	lo := func(all ...string) nodeip.Interface {
		return nodeip.Interface{Name: "lo", Up: true, Loopback: true, Addresses: networks(append([]string{"127.0.0.1/8"}, all...)...)}
	}
	byCIDR, byInterface := nodeip.Choice{CIDR: netip.MustParsePrefix("10.77.0.0/24")}, nodeip.Choice{Interface: "eth0"}
	for name, c := range map[string]struct {
		interfaces []nodeip.Interface
		to         map[string]string
		choice     nodeip.Choice
		want       string
	}{
		"on lo":                            {[]nodeip.Interface{lo("10.77.0.200/32"), eth0("10.77.0.11")}, map[string]string{"10.77.0.1": "10.77.0.11"}, byCIDR, "10.77.0.11"},
		"on lo, no route":                  {[]nodeip.Interface{lo("10.77.0.200/24"), eth0("10.77.0.11")}, nil, byCIDR, "10.77.0.11"},
		"/32 first":                        {[]nodeip.Interface{eth0("10.77.0.2/32", "10.77.0.11")}, map[string]string{"10.77.0.1": "10.77.0.11"}, byCIDR, "10.77.0.11"},
		"/32 first, by interface":          {[]nodeip.Interface{eth0("10.77.0.2/32", "10.77.0.11")}, map[string]string{"10.77.0.1": "10.77.0.11"}, byInterface, "10.77.0.11"},
		"/32 first, no route":              {[]nodeip.Interface{eth0("10.77.0.2/32", "10.77.0.11")}, nil, byInterface, "10.77.0.11"},
		"the route names the second":       {[]nodeip.Interface{eth0("10.77.0.2", "10.77.0.11")}, map[string]string{"10.77.0.1": "10.77.0.11"}, byInterface, "10.77.0.11"},
		"the route names the /32":          {[]nodeip.Interface{eth0("10.77.0.2/32", "10.77.0.11")}, map[string]string{"10.77.0.1": "10.77.0.2"}, byCIDR, "10.77.0.2"},
		"the node has the first address":   {[]nodeip.Interface{eth0("10.77.0.1/32", "10.77.0.11")}, map[string]string{"10.77.0.2": "10.77.0.11"}, byCIDR, "10.77.0.11"},
		"the route leads elsewhere":        {[]nodeip.Interface{eth0("10.77.0.2/32", "10.77.0.11")}, map[string]string{"10.77.0.1": "192.168.1.5"}, byCIDR, "10.77.0.11"},
		"none but one on lo":               {[]nodeip.Interface{lo("10.77.0.200/32")}, nil, byCIDR, "10.77.0.200"},
		"none but /32":                     {[]nodeip.Interface{eth0("10.77.0.2/32", "10.77.0.3/32")}, nil, byInterface, "10.77.0.2"},
		"IPv6, deprecated first":           {[]nodeip.Interface{eth0("fd77::dead", "fd77::b")}, map[string]string{"fd77::1": "fd77::b"}, nodeip.Choice{CIDR: netip.MustParsePrefix("fd77::/64")}, "fd77::b"},
		"IPv4 before IPv6, also a virtual": {[]nodeip.Interface{eth0("fd77::b", "10.77.0.2/32")}, map[string]string{"fd77::1": "fd77::b"}, byInterface, "10.77.0.2"},
	} {
		t.Run(name, func(t *testing.T) {
			ip, err := nodeip.Find(c.choice, network{interfaces: c.interfaces, to: c.to})
			assert.NilError(t, err)
			assert.Equal(t, ip.String(), c.want)
		})
	}
}

func TestSourceTo(t *testing.T) {
	w := worker()
	w.to = map[string]string{"10.9.0.1": "10.9.0.6", "172.16.0.4": "172.16.0.1"}
	for host, want := range map[string]string{"10.9.0.1": "10.9.0.6", "::ffff:10.9.0.1": "10.9.0.6", "192.0.2.9": "192.168.1.5", "v6": "2001:db8:1::5"} {
		ip, err := nodeip.SourceTo(host, w)
		assert.NilError(t, err)
		assert.Equal(t, ip.String(), want)
	}
	_, err := nodeip.SourceTo("nobody", w)
	assert.ErrorContains(t, err, "no such host")
}

func TestFindWithoutRoute(t *testing.T) {
	w := worker()
	w.routes = map[bool]string{false: "2001:db8:1::5"}
	ip, err := nodeip.Find(nodeip.Choice{HostName: "worker"}, w)
	assert.NilError(t, err)
	assert.Equal(t, ip.String(), "2001:db8:1::5", "the IPv6 route")

	w.routes = map[bool]string{true: "169.254.1.1", false: "fe80::1"}
	ip, err = nodeip.Find(nodeip.Choice{HostName: "worker"}, w)
	assert.NilError(t, err)
	assert.Equal(t, ip.String(), "172.16.0.4", "the host name")
	ip, err = nodeip.Find(nodeip.Choice{HostName: "v6"}, w)
	assert.NilError(t, err)
	assert.Equal(t, ip.String(), "fd00::4")
}

func TestNoAddress(t *testing.T) {
	alone := worker()
	alone.routes = nil
	broken := worker()
	broken.err = errors.New("netlink is closed")
	for _, c := range []struct {
		name   string
		choice nodeip.Choice
		on     network
		want   string
	}{
		{"given, link-local", nodeip.Choice{IP: netip.MustParseAddr("169.254.1.1")}, worker(), "must not be link-local, multicast or unspecified, got 169.254.1.1"},
		{"given, link-local IPv6", nodeip.Choice{IP: netip.MustParseAddr("fe80::1%eth0")}, worker(), "must not be link-local, multicast or unspecified, got fe80::1%eth0"},
		{"given, unspecified", nodeip.Choice{IP: netip.MustParseAddr("0.0.0.0")}, worker(), "must not be link-local, multicast or unspecified, got 0.0.0.0"},
		{"given, multicast", nodeip.Choice{IP: netip.MustParseAddr("ff02::1")}, worker(), "must not be link-local, multicast or unspecified, got ff02::1"},
		{"unknown interface", nodeip.Choice{Interface: "eth9"}, worker(), `on interface "eth9" in network "": this node has [lo eth0 storage0 v6only bare off]`},
		{"interface that is down", nodeip.Choice{Interface: "off"}, worker(), "off (down)"},
		{"interface with link-local addresses only", nodeip.Choice{Interface: "bare"}, worker(), "169.254.1.1"},
		{"loopback interface", nodeip.Choice{Interface: "lo"}, worker(), "no usable address"},
		{"interface outside of the network", nodeip.Choice{Interface: "eth0", CIDR: netip.MustParsePrefix("10.9.0.0/16")}, worker(), `interface "eth0" in network "10.9.0.0/16"`},
		{"network that nobody is in", nodeip.Choice{CIDR: netip.MustParsePrefix("10.77.0.0/16")}, worker(), `network "10.77.0.0/16"`},
		{"network of link-local addresses", nodeip.Choice{CIDR: netip.MustParsePrefix("169.254.0.0/16")}, worker(), "no usable address"},
		{"no interfaces to be read", nodeip.Choice{CIDR: netip.MustParsePrefix("10.9.0.0/16")}, broken, "netlink is closed"},
		{"no route, no name", nodeip.Choice{}, alone, "no default route, and no host name"},
		{"no route, unknown name", nodeip.Choice{HostName: "nobody"}, alone, "no such host"},
		{"no route, name for loopback", nodeip.Choice{HostName: "self"}, alone, `"self" resolves to unusable [127.0.1.1]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := nodeip.Find(c.choice, c.on)
			assert.ErrorContains(t, err, c.want)
		})
	}
}

func TestThisMachine(t *testing.T) {
	interfaces, err := nodeip.Machine{}.Interfaces()
	assert.NilError(t, err)
	found := map[netip.Addr]bool{}
	for _, i := range interfaces {
		for _, a := range i.Addresses {
			found[a.Addr()] = true
		}
	}
	assert.Assert(t, found[netip.MustParseAddr("127.0.0.1")], "%v", interfaces)
	source, err := nodeip.Machine{}.RouteSource(netip.MustParseAddr("127.0.0.1"))
	assert.NilError(t, err)
	assert.Equal(t, source.Unmap().String(), "127.0.0.1")
	local, err := nodeip.Machine{}.Lookup("localhost")
	assert.NilError(t, err)
	assert.Assert(t, len(local) > 0)
}
