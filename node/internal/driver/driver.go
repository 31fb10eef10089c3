// Package driver is the CSI node service. It checks requests, calls nfsmount, and maps errors to
// gRPC codes.
package driver

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync/atomic"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/staged"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// Mounts is the part of nfsmount.Mounter that the node service uses. The methods are documented
// there.
type Mounts interface {
	Mount(ctx context.Context, source nfsmount.Source, dir string, options []string) error
	Unmount(ctx context.Context, dir string) error
	Bind(ctx context.Context, dir, target string, readOnly bool) error
	Unbind(ctx context.Context, target string) error

	Volume(ctx context.Context, dir string) (nfsmount.Point, error)
	Others(ctx context.Context, dir, target string) ([]nfsmount.Point, error)
	Check(ctx context.Context, dir string) error
	Statfs(ctx context.Context, dir string) (unix.Statfs_t, error)
	SetGroup(ctx context.Context, dir, target string, gid uint32) error
	EndGroup(ctx context.Context, target string)
}

// Node is the CSI node service.
type Node struct {
	csi.UnimplementedNodeServer

	Driver    string                      // name of the plugin
	Name      string                      // name of this node
	Address   func() (netip.Addr, error)  // address that this node mounts from
	Supported func(context.Context) error // reports whether this node can mount NFS: nfsmount.Supported
	// SourceTo returns the address from which this node reaches a server, nil if it is unknown.
	SourceTo func(server string) (netip.Addr, error)
	// EndDirectoryDelegations is called after a volume is mounted with the caching policy shared:
	// nfsmount.EndDirectoryDelegations. It may be nil.
	EndDirectoryDelegations func() error

	Mounts Mounts
	Agents *agentclient.Pool // used without a tenant's token
	Store  *staged.Store
	Logger *slog.Logger

	announced atomic.Pointer[netip.Addr] // in the last node ID that NodeGetInfo returned
	failures  failures
}

var _ csi.NodeServer = (*Node)(nil)

// Ready returns an error if the node cannot mount volumes: no mount.nfs, a kernel without NFS, or
// no address to mount from. The error names all that is missing. After the first success, only
// NodeGetStorageHealth repeats the check.
func (n *Node) Ready(ctx context.Context) error {
	_, err := n.Address()
	return errors.Join(n.Supported(ctx), err)
}

// NodeGetInfo returns Unavailable while the node's address is unknown. The number of volumes has no
// limit. All nodes have one topology, because every node reaches every agent. The topology is
// necessary: external-provisioner publishes storage capacity by topology. Without a topology it
// deletes the capacity that it published, because an empty map is not equal to the nil that the API
// server makes of it (isObsolete in its pkg/capacity). Then no pod could be scheduled by capacity.
func (n *Node) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	address, err := n.Address()
	if err != nil {
		return nil, unavailable(err)
	}
	n.announced.Store(&address)
	return &csi.NodeGetInfoResponse{
		NodeId:             id.NewNode(n.Name, address).String(),
		AccessibleTopology: &csi.Topology{Segments: map[string]string{"topology." + n.Driver + "/network": "storage"}},
	}, nil
}

// NodeGetCapabilities returns the capabilities of the node service.
func (n *Node) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	response := &csi.NodeGetCapabilitiesResponse{}
	for _, capability := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP,
		csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
		csi.NodeServiceCapability_RPC_GET_VOLUME_HEALTH,
		csi.NodeServiceCapability_RPC_GET_STORAGE_HEALTH,
	} {
		response.Capabilities = append(response.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: capability}},
		})
	}
	return response, nil
}
