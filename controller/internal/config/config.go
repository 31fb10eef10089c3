// Package config reads the controller's settings from the environment.
package config

import (
	"fmt"
	"regexp"
	"time"

	"github.com/kelseyhightower/envconfig"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
)

// Config holds the settings from the environment. Durations are in Go's format, such as 30s.
type Config struct {
	DriverName  string `envconfig:"DRIVER_NAME" default:"btrfs-nfs-csi" desc:"name of the CSI driver: provisioner of the StorageClasses that are ours"`
	Endpoint    string `envconfig:"DRIVER_ENDPOINT" default:"unix:///csi/csi.sock" desc:"where to serve CSI: unix:///path or tcp://host:port"`
	MetricsAddr string `envconfig:"DRIVER_METRICS_ADDR" desc:"host:port of the metrics listener; empty for none"`

	ClassesFile string `envconfig:"DRIVER_CLASSES_FILE" desc:"file with static classes, for use without Kubernetes or beside it"`
	Kubeconfig  string `envconfig:"KUBECONFIG" desc:"kubeconfig file; empty inside a cluster"`

	AgentCA   string `envconfig:"DRIVER_AGENT_CA" desc:"PEM file of the authorities to trust for https agents; empty for the system's"`
	AgentCert string `envconfig:"DRIVER_AGENT_CERT" desc:"PEM file of the client certificate for agents"`
	AgentKey  string `envconfig:"DRIVER_AGENT_KEY" desc:"PEM file of the client certificate's key"`

	AgentTimeout time.Duration `envconfig:"DRIVER_AGENT_TIMEOUT" default:"30s" desc:"longest that one call to an agent may take"`
	KubeTimeout  time.Duration `envconfig:"DRIVER_KUBE_TIMEOUT" default:"10s" desc:"longest that one call to the Kubernetes API may take"`
	SecretTTL    time.Duration `envconfig:"DRIVER_SECRET_TTL" default:"30s" desc:"how long a secret that was read is taken as current"`
	DrainTimeout time.Duration `envconfig:"DRIVER_DRAIN_TIMEOUT" default:"30s" desc:"how long calls under way may take to finish after SIGTERM"`

	LogLevel  string `envconfig:"LOG_LEVEL" default:"info" desc:"debug, info, warn or error"`
	LogFormat string `envconfig:"LOG_FORMAT" desc:"text, logfmt or json; unset: text on a terminal, else logfmt, which is seven times as fast."`
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

// TLS returns the files for https agents.
func (c *Config) TLS() agentclient.TLSFiles {
	return agentclient.TLSFiles{CA: c.AgentCA, Cert: c.AgentCert, Key: c.AgentKey}
}

func (c *Config) validate() error {
	if !driverName.MatchString(c.DriverName) {
		return fmt.Errorf("DRIVER_NAME %q must be 1 to 63 letters, digits, '.', '_' and '-', with a letter or a digit at both ends", c.DriverName)
	}
	if (c.AgentCert == "") != (c.AgentKey == "") {
		return fmt.Errorf("DRIVER_AGENT_CERT and DRIVER_AGENT_KEY must be set together")
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"DRIVER_AGENT_TIMEOUT", c.AgentTimeout}, {"DRIVER_KUBE_TIMEOUT", c.KubeTimeout},
		{"DRIVER_SECRET_TTL", c.SecretTTL}, {"DRIVER_DRAIN_TIMEOUT", c.DrainTimeout},
	} {
		if d.value <= 0 {
			return fmt.Errorf("%s is %s, it must be more than 0", d.name, d.value)
		}
	}
	return nil
}
