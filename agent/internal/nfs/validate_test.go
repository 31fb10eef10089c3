package nfs_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/uuid"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

func TestValidateClient(t *testing.T) {
	const host, fresh = "must be", "must not be"
	for address, rule := range map[string]string{
		"10.0.0.1": "", "fd00::1": "", "::ffff:10.0.0.1": "", "10.0.0.255": "", "2002:a4e:1::1": "",
		"fe80::1%eth0": host, "10.78.0.11%x": host, "0.0.0.0": host, "::": host, "::ffff:0.0.0.0": host,
		"224.0.0.1": host, "ff02::1": host, "::ffff:224.0.0.1": host, "255.255.255.255": host, "::ffff:255.255.255.255": host,
		"127.0.0.1": fresh, "127.1.2.3": fresh, "::1": fresh, "::ffff:127.0.0.1": fresh,
		"169.254.1.1": fresh, "fe80::1": fresh, "::ffff:169.254.1.1": fresh,
	} {
		text, zone, _ := strings.Cut(address, "%")
		client := netip.MustParseAddr(text)
		if zone != "" {
			client = netip.AddrFrom16(client.As16()).WithZone(zone) // ParseAddr refuses a zone of an IPv4-mapped address
			address = client.String()
		}
		always, new := nfs.ValidateClient(client), nfs.ValidateNewClient(client)
		assert.Equal(t, always != nil, rule == host, "%s: %v", address, always)
		assert.Equal(t, new != nil, rule != "", "%s: %v", address, new)
		if new != nil {
			assert.ErrorContains(t, new, "client "+rule)
			assert.Assert(t, strings.HasSuffix(new.Error(), ", got "+address), "%v", new)
		}
	}
	assert.Error(t, nfs.ValidateNewClient(netip.Addr{}), "client must be an IPv4 or IPv6 address, got none")
}

// What older agents exported stays exported.
func TestNormalizeOfLoopback(t *testing.T) {
	old := nfs.Export{Path: "/srv/t/v/data", FSID: uuid.New(), Client: netip.MustParseAddr("127.0.0.1")}
	got, err := old.Normalize("/srv")
	assert.NilError(t, err)
	assert.Equal(t, got, old)
	old.Client = netip.MustParseAddr("255.255.255.255")
	_, err = old.Normalize("/srv")
	assert.ErrorIs(t, err, nfs.ErrInvalid)
	assert.ErrorContains(t, err, "client must be the address of one host, got 255.255.255.255")
}
