// Package config reads the controller's settings from the environment.
package config

import (
	"fmt"
	"regexp"
	"time"

	"github.com/kelseyhightower/envconfig"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
)

// Config holds the settings from the environment. Durations are in Go's format, such as 30s.
type Config struct {
	csiserver.Settings

	ClassesFile string `envconfig:"DRIVER_CLASSES_FILE" desc:"File with static classes, for use without Kubernetes or in addition to it."`
	Kubeconfig  string `envconfig:"KUBECONFIG" desc:"kubeconfig file. Empty inside a cluster."`

	AgentTimeout time.Duration `envconfig:"DRIVER_AGENT_TIMEOUT" default:"30s" desc:"Longest that one call to an agent may take."`
	KubeTimeout  time.Duration `envconfig:"DRIVER_KUBE_TIMEOUT" default:"10s" desc:"Longest that one call to the Kubernetes API may take."`
	SecretTTL    time.Duration `envconfig:"DRIVER_SECRET_TTL" default:"30s" desc:"How long the controller uses a secret before it reads it again."`
	DrainTimeout time.Duration `envconfig:"DRIVER_DRAIN_TIMEOUT" default:"30s" desc:"How long calls under way may take to finish after SIGTERM."`
}

// driverName is the CSI specification's rule for names (GetPluginInfoResponse.name).
var driverName = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9._-]{0,61}[a-zA-Z0-9])?$`)

// Load reads and checks the environment.
func Load() (*Config, error) {
	var c Config
	if err := envconfig.Process("", &c); err != nil {
		return nil, err
	}
	return &c, c.validate()
}

func (c *Config) validate() error {
	if !driverName.MatchString(c.DriverName) {
		return fmt.Errorf("DRIVER_NAME must be 1 to 63 letters, digits, '.', '_' and '-', with a letter or a digit at both ends, got %q", c.DriverName)
	}
	for name, value := range map[string]time.Duration{
		"DRIVER_AGENT_TIMEOUT": c.AgentTimeout,
		"DRIVER_KUBE_TIMEOUT":  c.KubeTimeout,
		"DRIVER_SECRET_TTL":    c.SecretTTL,
		"DRIVER_DRAIN_TIMEOUT": c.DrainTimeout,
	} {
		if value <= 0 {
			return fmt.Errorf("%s must be more than 0, got %s", name, value)
		}
	}
	return nil
}
