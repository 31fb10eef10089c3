// btrfs-nfs-node is the CSI node driver. It mounts volumes over NFS on its worker node.
package main

import (
	"context"
	"net/netip"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/driver"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nodeip"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/staged"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
)

const component = "btrfs-nfs-node"

func main() { csiserver.Main(component, run) }

func run(ctx context.Context) error {
	c, err := config.Load()
	if err != nil {
		return err
	}
	store, err := staged.Open(c.StateDir)
	if err != nil {
		return err
	}
	process, err := csiserver.Start(component, c.Settings, agentclient.Options{Timeout: c.StatTimeout})
	if err != nil {
		return err
	}
	defer process.Agents.Close()
	process.Logger = process.Logger.With("node", c.NodeID)

	limits := nfsmount.Limits{Mount: c.MountTimeout, Unmount: c.UnmountTimeout, Stat: c.StatTimeout, Group: c.GroupTimeout}
	choice := nodeip.Choice{IP: c.NodeIP, Interface: c.StorageInterface, CIDR: c.StorageCIDR, HostName: c.NodeID}
	node := &driver.Node{
		Driver:    c.DriverName,
		Name:      c.NodeID,
		Address:   func() (netip.Addr, error) { return nodeip.Find(choice, nodeip.Machine{}) },
		Supported: nfsmount.Supported,
		SourceTo:  func(server string) (netip.Addr, error) { return nodeip.SourceTo(server, nodeip.Machine{}) },

		EndDirectoryDelegations: nfsmount.EndDirectoryDelegations,

		Mounts: driver.Measured(nfsmount.New(limits, process.Logger), process.Registry),
		Agents: process.Agents,
		Store:  store,
		Logger: process.Logger,
	}
	return process.Serve(ctx, c.DrainTimeout, node.Ready, func(s *grpc.Server) {
		csi.RegisterNodeServer(s, driver.OneAtATime(node))
	})
}
