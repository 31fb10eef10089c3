package driver_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/driver"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

func TestNodeIDHoldsNameAndAddress(t *testing.T) {
	for _, c := range []struct{ name, address, want string }{
		{"worker-1", "10.0.0.7", "worker-1|10.0.0.7"},
		{"worker-1.example.com", "fd00::7", "worker-1.example.com|fd00::7"},
		{strings.Repeat("a", 253), "2001:db8:1111:2222:3333:4444:5555:6666", ""},
	} {
		n := &driver.Node{Driver: "nfs.example.com", Name: c.name, Address: func() (netip.Addr, error) { return netip.MustParseAddr(c.address), nil }}
		info, err := n.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
		assert.NilError(t, err)
		if c.want != "" {
			assert.Equal(t, info.NodeId, c.want)
		}
		assert.Assert(t, len(info.NodeId) <= id.MaxNodeIDLen)
		parsed, err := id.ParseNode(info.NodeId)
		assert.NilError(t, err)
		assert.Equal(t, parsed.IP.String(), c.address)
		assert.Equal(t, info.MaxVolumesPerNode, int64(0))
		assert.DeepEqual(t, info.AccessibleTopology.Segments, map[string]string{"topology.nfs.example.com/network": "storage"})
	}
}

func TestTheNodeIsReadyWhenItCanMount(t *testing.T) {
	address, noAddress, unsupported := netip.MustParseAddr("10.0.0.7"), errors.New("interface storage0 is down"), nfsmount.ErrNoHelper
	n := &driver.Node{
		Name:      "worker-1",
		Address:   func() (netip.Addr, error) { return address, noAddress },
		Supported: func(context.Context) error { return unsupported },
	}
	_, err := n.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	hasCode(t, err, codes.Unavailable, "storage0 is down")
	err = n.Ready(t.Context())
	assert.ErrorIs(t, err, nfsmount.ErrNoHelper)
	assert.ErrorIs(t, err, noAddress, "all that is missing is told at once")
	unsupported = nil
	assert.ErrorIs(t, n.Ready(t.Context()), noAddress)
	noAddress = nil
	assert.NilError(t, n.Ready(t.Context()), "it is ready as soon as it can")
}

func TestCapabilities(t *testing.T) {
	answer, err := (&driver.Node{}).NodeGetCapabilities(t.Context(), &csi.NodeGetCapabilitiesRequest{})
	assert.NilError(t, err)
	var got []string
	for _, c := range answer.Capabilities {
		got = append(got, c.GetRpc().Type.String())
	}
	assert.DeepEqual(t, got, []string{"STAGE_UNSTAGE_VOLUME", "GET_VOLUME_STATS", "VOLUME_MOUNT_GROUP", "SINGLE_NODE_MULTI_WRITER", "GET_VOLUME_HEALTH", "GET_STORAGE_HEALTH"})
}
