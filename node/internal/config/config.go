// Package config reads the node driver's environment.
package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/kelseyhightower/envconfig"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
)

// Config is the environment of the node driver. Durations are in Go's form: 30s, 1m30s.
type Config struct {
	DriverName  string `envconfig:"DRIVER_NAME" default:"btrfs-nfs-csi"`
	Endpoint    string `envconfig:"DRIVER_ENDPOINT" default:"unix:///csi/csi.sock"`
	MetricsAddr string `envconfig:"DRIVER_METRICS_ADDR"` // host:port; empty for no metrics

	// NodeID is the node's name, from which, with its storage address, the CSI node ID is made.
	NodeID           string `envconfig:"DRIVER_NODE_ID"`
	NodeIP           string `envconfig:"DRIVER_NODE_IP"`           // the address that NFS servers see
	StorageInterface string `envconfig:"DRIVER_STORAGE_INTERFACE"` // its network interface, in place of the address
	StorageCIDR      string `envconfig:"DRIVER_STORAGE_CIDR"`      // a network that it lies in, such as 10.1.0.0/16

	// StateDir keeps what a restarted driver needs. Default: the directory "state" beside the socket.
	StateDir string `envconfig:"DRIVER_STATE_DIR"`

	// PEM files for https agents, which are asked for usage only.
	AgentCA   string `envconfig:"DRIVER_AGENT_CA"`
	AgentCert string `envconfig:"DRIVER_AGENT_CERT"`
	AgentKey  string `envconfig:"DRIVER_AGENT_KEY"`

	MountTimeout   time.Duration `envconfig:"DRIVER_MOUNT_TIMEOUT" default:"60s"`   // one NFS mount
	UnmountTimeout time.Duration `envconfig:"DRIVER_UNMOUNT_TIMEOUT" default:"30s"` // writing back and unmounting, before the mount is detached
	StatTimeout    time.Duration `envconfig:"DRIVER_STAT_TIMEOUT" default:"5s"`     // one question to an NFS server or an agent
	GroupTimeout   time.Duration `envconfig:"DRIVER_GROUP_TIMEOUT" default:"100s"`  // setting a volume's group in one call; kubelet waits 2 minutes

	LogLevel  string `envconfig:"LOG_LEVEL" default:"info"`
	LogFormat string `envconfig:"LOG_FORMAT" default:"text"`
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
