// btrfs-nfs-node is the CSI node driver. It mounts volumes over NFS on its worker node.
package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/driver"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nodeip"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/staged"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/version"
)

const component = "btrfs-nfs-node"

func main() { csiserver.Main(component, run) }

func run(ctx context.Context) error {
	c, err := config.Load()
	if err != nil {
		return err
	}
	logger, err := csiserver.NewLogger(os.Stderr, c.LogLevel, c.LogFormat)
	if err != nil {
		return err
	}
	logger = logger.With("node", c.NodeID)
	store, err := staged.Open(c.StateDir)
	if err != nil {
		return err
	}
	registry := csiserver.NewRegistry(component)
	files := agentclient.TLSFiles{CA: c.AgentCA, Cert: c.AgentCert, Key: c.AgentKey}
	if _, err := agentclient.New("https://agent.invalid", agentclient.Options{TLS: files}); err != nil {
		return fmt.Errorf("DRIVER_AGENT_CA, DRIVER_AGENT_CERT, DRIVER_AGENT_KEY: %w", err)
	}
	agents := agentclient.NewPool(agentclient.Options{
		Timeout:   c.StatTimeout,
		TLS:       files,
		UserAgent: version.UserAgent(component),
		RequestID: csiserver.RequestID,
		Observe:   csiserver.AgentObserver(registry),
	})
	defer agents.Close()

	limits := nfsmount.Limits{Mount: c.MountTimeout, Unmount: c.UnmountTimeout, Stat: c.StatTimeout, Group: c.GroupTimeout}
	choice := nodeip.Choice{IP: c.NodeIP, Interface: c.StorageInterface, CIDR: c.StorageCIDR, HostName: c.NodeID}
	node := &driver.Node{
		Driver:    c.DriverName,
		Name:      c.NodeID,
		Address:   func() (netip.Addr, error) { return nodeip.Find(choice, nodeip.Machine{}) },
		Supported: nfsmount.Supported,
		SourceTo:  func(server string) (netip.Addr, error) { return nodeip.SourceTo(server, nodeip.Machine{}) },

		EndDirectoryDelegations: nfsmount.EndDirectoryDelegations,

		Mounts: driver.Measured(nfsmount.New(limits, logger), registry),
		Agents: agents,
		Store:  store,
		Logger: logger,
	}
	identity := &csiserver.Identity{Name: c.DriverName, Ready: node.Ready, Logger: logger}
	logger.Info("starting", "component", component, "version", version.Version, "commit", version.Commit, "date", version.Date)
	return csiserver.Serve(ctx, csiserver.Options{
		Endpoint: c.Endpoint, DriverName: c.DriverName, Logger: logger, Registry: registry, MetricsAddr: c.MetricsAddr, DrainTimeout: c.DrainTimeout,
		Register: func(s *grpc.Server) {
			csi.RegisterIdentityServer(s, identity)
			csi.RegisterNodeServer(s, driver.OneAtATime(node))
		},
	})
}
