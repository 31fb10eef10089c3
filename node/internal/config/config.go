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
	csiserver.Settings

	NodeID           string       `envconfig:"DRIVER_NODE_ID" desc:"Name of the node. The CSI node ID consists of it and the storage address. Required."`
	NodeIP           netip.Addr   `envconfig:"DRIVER_NODE_IP" desc:"The address that NFS servers see. Default: an address of the interface, otherwise one in the network, otherwise that of the default route. If there are several, the one from which the node reaches the storage network."`
	StorageInterface string       `envconfig:"DRIVER_STORAGE_INTERFACE" desc:"Network interface that has the address."`
	StorageCIDR      netip.Prefix `envconfig:"DRIVER_STORAGE_CIDR" desc:"Network that has the address, such as 10.1.0.0/16."`

	StateDir string `envconfig:"DRIVER_STATE_DIR" desc:"Directory for the data that a restarted driver needs. Default: state, next to the socket. Required if the endpoint is TCP."`

	MountTimeout   time.Duration `envconfig:"DRIVER_MOUNT_TIMEOUT" default:"60s" desc:"Longest that one NFS mount may take."`
	UnmountTimeout time.Duration `envconfig:"DRIVER_UNMOUNT_TIMEOUT" default:"30s" desc:"Longest that writing back and unmounting may take before the mount is detached."`
	StatTimeout    time.Duration `envconfig:"DRIVER_STAT_TIMEOUT" default:"5s" desc:"Longest that one request to an NFS server or an agent may take."`
	GroupTimeout   time.Duration `envconfig:"DRIVER_GROUP_TIMEOUT" default:"20s" desc:"Longest that one call waits until the group of a volume is set. The change then continues, and the next call waits again. Meanwhile the node driver refuses other calls for the volume."`

	DrainTimeout time.Duration `envconfig:"DRIVER_DRAIN_TIMEOUT" default:"20s" desc:"How long calls under way may take to finish after SIGTERM. The supervisor must wait ten seconds longer before it kills the driver."`
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
	return c, nil
}

// check also sets the default of StateDir.
func (c *Config) check() error {
	if c.NodeID == "" {
		return fmt.Errorf("DRIVER_NODE_ID must be the node's name")
	}
	network, socket, err := csiserver.ParseEndpoint(c.Endpoint)
	if err != nil {
		return fmt.Errorf("DRIVER_ENDPOINT: %w", err)
	}
	switch {
	case c.StateDir == "" && network == "unix":
		c.StateDir = filepath.Join(filepath.Dir(socket), "state")
	case !filepath.IsAbs(c.StateDir):
		return fmt.Errorf("DRIVER_STATE_DIR must be an absolute path, got %q", c.StateDir)
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
			return fmt.Errorf("%s must be between 100ms and 1h, got %v", name, timeout)
		}
	}
	return nil
}
