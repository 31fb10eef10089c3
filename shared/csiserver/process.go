package csiserver

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/version"
)

// Settings are the settings that the controller and the node driver have in common.
type Settings struct {
	DriverName  string `envconfig:"DRIVER_NAME" default:"btrfs-nfs-csi" desc:"Name of the CSI driver. StorageClasses name it as their provisioner."`
	Endpoint    string `envconfig:"DRIVER_ENDPOINT" default:"unix:///csi/csi.sock" desc:"Where to serve CSI: unix:///path or tcp://host:port."`
	MetricsAddr string `envconfig:"DRIVER_METRICS_ADDR" desc:"host:port of the metrics listener. Empty for none."`

	AgentCA   string `envconfig:"DRIVER_AGENT_CA" desc:"PEM file of the authorities to trust for https agents. Empty for the system's."`
	AgentCert string `envconfig:"DRIVER_AGENT_CERT" desc:"PEM file of the client certificate for agents."`
	AgentKey  string `envconfig:"DRIVER_AGENT_KEY" desc:"PEM file of the client certificate's key."`

	LogLevel  string `envconfig:"LOG_LEVEL" default:"info" desc:"debug, info, warn or error."`
	LogFormat string `envconfig:"LOG_FORMAT" desc:"text, logfmt or json. Default: text on a terminal, otherwise logfmt, which is seven times as fast."`
}

// Process is a driver that has started.
type Process struct {
	Logger   *slog.Logger
	Registry *prometheus.Registry
	Agents   *agentclient.Pool // the caller closes it

	settings Settings
}

// Start creates what every driver needs. Timeout and NameAgent of agents apply, the other options
// come from the settings. It fails if the agents' TLS files cannot be used.
func Start(component string, s Settings, agents agentclient.Options) (*Process, error) {
	logger, err := NewLogger(os.Stderr, s.LogLevel, s.LogFormat)
	if err != nil {
		return nil, err
	}

	agents.TLS = agentclient.TLSFiles{CA: s.AgentCA, Cert: s.AgentCert, Key: s.AgentKey}
	if _, err := agentclient.New("https://agent.invalid", agents); err != nil {
		return nil, fmt.Errorf("DRIVER_AGENT_CA, DRIVER_AGENT_CERT, DRIVER_AGENT_KEY: %w", err)
	}
	registry := NewRegistry(component)
	agents.UserAgent, agents.RequestID = version.UserAgent(component), RequestID
	agents.Observe = AgentObserver(registry)

	logger.Info("starting", "component", component, "version", version.Version, "commit", version.Commit,
		"date", version.Date, "driver", s.DriverName)
	return &Process{Logger: logger, Registry: registry, Agents: agentclient.NewPool(agents), settings: s}, nil
}

// Serve serves the identity service and the services that register adds, until ctx ends. See
// Identity for ready.
func (p *Process) Serve(ctx context.Context, drain time.Duration, ready func(context.Context) error, register func(*grpc.Server)) error {
	s := p.settings
	return Serve(ctx, Options{
		Endpoint: s.Endpoint, DriverName: s.DriverName, Logger: p.Logger,
		Registry: p.Registry, MetricsAddr: s.MetricsAddr, DrainTimeout: drain,
		Register: func(server *grpc.Server) {
			csi.RegisterIdentityServer(server, &Identity{Name: s.DriverName, Ready: ready, Logger: p.Logger})
			register(server)
		},
	})
}
