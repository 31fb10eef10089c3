// Command btrfs-nfs-controller serves the CSI controller of btrfs-nfs-csi. The environment
// configures it, see internal/config.
package main

import (
	"context"
	"errors"
	"log/slog"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/agents"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/driver"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/kube"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
)

const component = "btrfs-nfs-controller"

func main() { csiserver.Main(component, run) }

func run(ctx context.Context) error {
	settings, err := config.Load()
	if err != nil {
		return err
	}
	process, err := csiserver.Start(component, settings.Settings, agentclient.Options{Timeout: settings.AgentTimeout, NameAgent: true})
	if err != nil {
		return err
	}
	defer process.Agents.Close()
	api, static, err := sources(settings, process.Logger)
	if err != nil {
		return err
	}
	registry := agents.NewRegistry(api, static, process.Agents)

	// The informers outlive the server, so that calls can still resolve classes while the server
	// drains.
	informers, stopInformers := context.WithCancel(context.WithoutCancel(ctx))
	group, serving := errgroup.WithContext(ctx)
	if api != nil {
		group.Go(func() error {
			api.Run(informers)
			return nil
		})
	}
	group.Go(func() error {
		defer stopInformers()
		ready := func(context.Context) error { return registry.Ready() }
		return process.Serve(serving, settings.DrainTimeout, ready, func(server *grpc.Server) {
			csi.RegisterControllerServer(server, driver.New(settings.DriverName, registry, process.Logger))
		})
	})
	return group.Wait()
}

// sources opens the sources of classes: the Kubernetes API if there is one, and the classes file if
// one is configured.
func sources(settings *config.Config, logger *slog.Logger) (*kube.API, *agents.Static, error) {
	var static *agents.Static
	if settings.ClassesFile != "" {
		var err error
		if static, err = agents.NewStatic(settings.ClassesFile, logger); err != nil {
			return nil, nil, err
		}
	}
	api, err := connect(settings, logger)
	if err != nil {
		return nil, nil, err
	}
	if api == nil && static == nil {
		return nil, nil, errors.New("KUBECONFIG or DRIVER_CLASSES_FILE must be set outside of a pod")
	}
	return api, static, nil
}
