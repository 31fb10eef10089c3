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
	const mustBe, mustNotBe = "must be", "must not be"
	for address, rule := range map[string]string{
		"10.0.0.1": "", "fd00::1": "", "::ffff:10.0.0.1": "", "10.0.0.255": "", "2002:a4e:1::1": "",
		"fe80::1%eth0": mustBe, "10.78.0.11%x": mustBe, "0.0.0.0": mustBe, "::": mustBe, "::ffff:0.0.0.0": mustBe,
		"224.0.0.1": mustBe, "ff02::1": mustBe, "::ffff:224.0.0.1": mustBe, "255.255.255.255": mustBe, "::ffff:255.255.255.255": mustBe,
		"127.0.0.1": mustNotBe, "127.1.2.3": mustNotBe, "::1": mustNotBe, "::ffff:127.0.0.1": mustNotBe,
		"169.254.1.1": mustNotBe, "fe80::1": mustNotBe, "::ffff:169.254.1.1": mustNotBe,
	} {
		text, zone, _ := strings.Cut(address, "%")
		client := netip.MustParseAddr(text)
		if zone != "" {
			client = netip.AddrFrom16(client.As16()).WithZone(zone) // ParseAddr refuses a zone of an IPv4-mapped address
			address = client.String()
		}
		always, fresh := nfs.ValidateClient(client), nfs.ValidateNewClient(client)
		assert.Equal(t, always != nil, rule == mustBe, "%s: %v", address, always)
		assert.Equal(t, fresh != nil, rule != "", "%s: %v", address, fresh)
		if fresh != nil {
			assert.ErrorContains(t, fresh, "client "+rule)
			assert.Assert(t, strings.HasSuffix(fresh.Error(), ", got "+address), "%v", fresh)
		}
	}
	assert.Error(t, nfs.ValidateNewClient(netip.Addr{}), "client must be an IPv4 or IPv6 address, got none")
}

// Exports of older agents stay valid.
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
