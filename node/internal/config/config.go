// Package config reads the node driver's settings from the environment.
package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/kelseyhightower/envconfig"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
)

// Config holds the settings from the environment. Durations are in Go's format: 30s, 1m30s.
type Config struct {
	DriverName  string `envconfig:"DRIVER_NAME" default:"btrfs-nfs-csi" desc:"Name of the CSI driver."`
	Endpoint    string `envconfig:"DRIVER_ENDPOINT" default:"unix:///csi/csi.sock" desc:"Where to serve CSI: unix:///path or tcp://host:port."`
	MetricsAddr string `envconfig:"DRIVER_METRICS_ADDR" desc:"host:port of the metrics listener; empty for none."`

	NodeID           string `envconfig:"DRIVER_NODE_ID" desc:"The node's name, from which, with its storage address, the CSI node ID is made. Required."`
	NodeIP           string `envconfig:"DRIVER_NODE_IP" desc:"The address that NFS servers see. Without it: one of the interface, else one in the network, else that of the default route. Of several, the one from which the node reaches the storage network."`
	StorageInterface string `envconfig:"DRIVER_STORAGE_INTERFACE" desc:"Network interface whose address is taken."`
	StorageCIDR      string `envconfig:"DRIVER_STORAGE_CIDR" desc:"Network whose address is taken, such as 10.1.0.0/16."`

	StateDir string `envconfig:"DRIVER_STATE_DIR" desc:"Directory that keeps what a restarted driver needs. Default: state beside the socket; required where the endpoint is TCP."`

	AgentCA   string `envconfig:"DRIVER_AGENT_CA" desc:"PEM file of the authorities to trust for https agents, which are asked for usage; empty for the system's."`
	AgentCert string `envconfig:"DRIVER_AGENT_CERT" desc:"PEM file of the client certificate for agents."`
	AgentKey  string `envconfig:"DRIVER_AGENT_KEY" desc:"PEM file of the client certificate's key."`

	MountTimeout   time.Duration `envconfig:"DRIVER_MOUNT_TIMEOUT" default:"60s" desc:"Longest that one NFS mount may take."`
	UnmountTimeout time.Duration `envconfig:"DRIVER_UNMOUNT_TIMEOUT" default:"30s" desc:"Longest that writing back and unmounting may take before the mount is detached."`
	StatTimeout    time.Duration `envconfig:"DRIVER_STAT_TIMEOUT" default:"5s" desc:"Longest that one question to an NFS server or an agent may take."`
	GroupTimeout   time.Duration `envconfig:"DRIVER_GROUP_TIMEOUT" default:"20s" desc:"Longest that one call waits for a volume's group to be set, which goes on after that; the next call waits again. Other calls for the volume on this node are refused meanwhile."`

	DrainTimeout time.Duration `envconfig:"DRIVER_DRAIN_TIMEOUT" default:"20s" desc:"How long calls under way may take to finish after SIGTERM. What starts the driver must not kill it for ten seconds more."`

	LogLevel  string `envconfig:"LOG_LEVEL" default:"info" desc:"debug, info, warn or error."`
	LogFormat string `envconfig:"LOG_FORMAT" desc:"text, logfmt or json; unset: text on a terminal, else logfmt, which is seven times as fast."`
}

// Load reads and checks the environment. The error names the variable.
func Load() (Config, error) {
	var c Config
	if err := envconfig.Process("", &c); err != nil {
		return Config{}, err
	}
	if err := c.check(); err != nil {
		return Config{}, err
	}
	if c.StateDir == "" {
		c.StateDir = besideSocket(c.Endpoint)
	}
	return c, nil
}

func (c Config) check() error {
	if c.NodeID == "" {
		return fmt.Errorf("DRIVER_NODE_ID must be set to the node's name")
	}
	network, _, err := csiserver.ParseEndpoint(c.Endpoint)
	switch {
	case err != nil:
		return fmt.Errorf("DRIVER_ENDPOINT: %w", err)
	case network != "unix" && c.StateDir == "":
		return fmt.Errorf("DRIVER_STATE_DIR must be set where DRIVER_ENDPOINT is no unix socket")
	case c.StateDir != "" && !filepath.IsAbs(c.StateDir):
		return fmt.Errorf("DRIVER_STATE_DIR %q must be absolute", c.StateDir)
	case (c.AgentCert == "") != (c.AgentKey == ""):
		return fmt.Errorf("DRIVER_AGENT_CERT and DRIVER_AGENT_KEY must be set together")
	}
	if c.NodeIP != "" {
		if _, err := netip.ParseAddr(c.NodeIP); err != nil {
			return fmt.Errorf("DRIVER_NODE_IP %q is not an IPv4 or IPv6 address", c.NodeIP)
		}
	}
	if c.StorageCIDR != "" {
		if _, err := netip.ParsePrefix(c.StorageCIDR); err != nil {
			return fmt.Errorf("DRIVER_STORAGE_CIDR %q is not a network such as 10.1.0.0/16 or fd00:1::/64", c.StorageCIDR)
		}
	}
	return c.checkTimeouts()
}

func (c Config) checkTimeouts() error {
	for name, timeout := range map[string]time.Duration{
		"DRIVER_MOUNT_TIMEOUT":   c.MountTimeout,
		"DRIVER_UNMOUNT_TIMEOUT": c.UnmountTimeout,
		"DRIVER_STAT_TIMEOUT":    c.StatTimeout,
		"DRIVER_GROUP_TIMEOUT":   c.GroupTimeout,
		"DRIVER_DRAIN_TIMEOUT":   c.DrainTimeout,
	} {
		if timeout < 100*time.Millisecond || timeout > time.Hour {
			return fmt.Errorf("%s %v must be between 100ms and 1h", name, timeout)
		}
	}
	return nil
}

func besideSocket(endpoint string) string {
	_, socket, err := csiserver.ParseEndpoint(endpoint)
	if err != nil {
		return ""
	}
	return filepath.Join(filepath.Dir(socket), "state")
}
