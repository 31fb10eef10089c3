// Command btrfs-nfs-controller serves the CSI controller of btrfs-nfs-csi. The environment
// configures it, see internal/config.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/agents"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/driver"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/kube"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/version"
)

const component = "btrfs-nfs-controller"

func main() { csiserver.Main(component, run) }

func run(ctx context.Context) error {
	settings, err := config.Load()
	if err != nil {
		return err
	}
	logger, err := csiserver.NewLogger(os.Stderr, settings.LogLevel, settings.LogFormat)
	if err != nil {
		return err
	}
	logger.Info("starting", "component", component, "version", version.Version, "commit", version.Commit, "date", version.Date, "driver", settings.DriverName)
	metrics := csiserver.NewRegistry(component)
	clients := agentclient.NewPool(agentclient.Options{
		Timeout: settings.AgentTimeout, TLS: settings.TLS(), UserAgent: version.UserAgent(component),
		RequestID: csiserver.RequestID, Observe: csiserver.AgentObserver(metrics), NameAgent: true,
	})
	defer clients.Close()
	if _, err := agentclient.New("https://agent.invalid", agentclient.Options{TLS: settings.TLS()}); err != nil {
		return fmt.Errorf("DRIVER_AGENT_CA, DRIVER_AGENT_CERT, DRIVER_AGENT_KEY: %w", err)
	}
	api, static, err := sources(settings, logger)
	if err != nil {
		return err
	}
	registry := agents.NewRegistry(api, static, clients)

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
		return csiserver.Serve(serving, csiserver.Options{
			Endpoint: settings.Endpoint, DriverName: settings.DriverName, Logger: logger,
			Registry: metrics, MetricsAddr: settings.MetricsAddr, DrainTimeout: settings.DrainTimeout,
			Register: register(settings.DriverName, registry, logger),
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
		return nil, nil, errors.New("there is neither Kubernetes (KUBECONFIG is not set and this is no pod) nor DRIVER_CLASSES_FILE")
	}
	return api, static, nil
}

func register(name string, registry *agents.Registry, logger *slog.Logger) func(*grpc.Server) {
	return func(server *grpc.Server) {
		csi.RegisterIdentityServer(server, &csiserver.Identity{
			Name: name, Logger: logger,
			Ready: func(context.Context) error { return registry.Ready() },
		})
		csi.RegisterControllerServer(server, driver.New(name, registry, logger))
	}
}
