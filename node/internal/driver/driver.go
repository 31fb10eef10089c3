// Package driver is the CSI node service: it checks requests, lets nfsmount do what they ask for, and gives errors
// their codes.
package driver

import (
	"context"
	"log/slog"
	"net/netip"
	"sync/atomic"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/staged"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// Mounts is what the node service asks of nfsmount.Mounter, which tells what each does.
type Mounts interface {
	Mount(ctx context.Context, source nfsmount.Source, dir string, options []string) error
	Unmount(ctx context.Context, dir string) error
	Bind(ctx context.Context, dir, target string, readOnly bool) error
	Unbind(ctx context.Context, target string) error

	Volume(ctx context.Context, dir string) (nfsmount.Point, error)
	Others(ctx context.Context, dir, target string) ([]nfsmount.Point, error)
	Check(ctx context.Context, dir string) error
	Capacity(ctx context.Context, dir string) (nfsmount.Capacity, error)
	SetGroup(ctx context.Context, dir string, gid uint32) error
	EndGroup(ctx context.Context, dir string)
}

// Agents reads the quota and usage of a volume with the capability that came with its publishing, and an agent's health, which
// takes none.
type Agents interface {
	Usage(ctx context.Context, agentURL, volume, usageToken string) (*agentapi.Usage, error)
	Health(ctx context.Context, agentURL string) (*agentapi.Health, error)
}

// Store keeps what the driver must know of a volume after a restart.
type Store interface {
	Save(staged.Record) error
	Load(volumeID string) (staged.Record, error)
	List() ([]staged.Record, error)
	Delete(volumeID string) error
}

// Node is the CSI node service.
type Node struct {
	csi.UnimplementedNodeServer

	Driver    string                      // the plugin's name
	Name      string                      // of this node
	Address   func() (netip.Addr, error)  // from which this node mounts
	Supported func(context.Context) error // whether this node can mount NFS at all: nfsmount.Supported
	// SourceTo is the address from which this node reaches a server, nil where that cannot be told.
	SourceTo func(server string) (netip.Addr, error)
	// EndDirectoryDelegations is called when a volume has been mounted with the caching shared:
	// nfsmount.EndDirectoryDelegations. It may be nil.
	EndDirectoryDelegations func() error

	Mounts Mounts
	Agents Agents
	Store  Store
	Logger *slog.Logger

	announced atomic.Pointer[netip.Addr] // in the last node ID that was given out
	failures  failures
	groups    groupCalls
}

var _ csi.NodeServer = (*Node)(nil)

// NodeGetInfo answers Unavailable while the node's address is not known. There is no limit to the number of volumes. All nodes are
// in one topology, since every node reaches every agent. That has to be said: external-provisioner publishes storage
// capacity by topology, and deletes what it has published for none at all (isObsolete in its pkg/capacity: an empty map is not
// equal to the nil that the API server makes of it), so that no pod could be scheduled by capacity.
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

// NodeGetCapabilities tells what the node service can do.
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
