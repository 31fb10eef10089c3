package config_test

import (
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
)

func TestDefaults(t *testing.T) {
	c, err := config.Load()
	assert.NilError(t, err)
	assert.Equal(t, c.DriverName, "btrfs-nfs-csi")
	assert.Equal(t, c.Endpoint, "unix:///csi/csi.sock")
	assert.Equal(t, c.AgentTimeout, 30*time.Second)
	assert.Equal(t, c.LogFormat, "")
}

func TestEverySettingIsRead(t *testing.T) {
	for name, value := range map[string]string{
		"DRIVER_NAME": "other.example.com", "DRIVER_ENDPOINT": "tcp://127.0.0.1:1", "DRIVER_METRICS_ADDR": ":9", "DRIVER_CLASSES_FILE": "/c",
		"KUBECONFIG": "/k", "DRIVER_AGENT_CA": "/ca", "DRIVER_AGENT_CERT": "/cert", "DRIVER_AGENT_KEY": "/key", "DRIVER_AGENT_TIMEOUT": "1s",
		"DRIVER_KUBE_TIMEOUT": "2s", "DRIVER_SECRET_TTL": "3s", "DRIVER_DRAIN_TIMEOUT": "4s", "LOG_LEVEL": "debug", "LOG_FORMAT": "json",
	} {
		t.Setenv(name, value)
	}
	c, err := config.Load()
	assert.NilError(t, err)
	assert.DeepEqual(t, *c, config.Config{
		Settings: csiserver.Settings{
			DriverName: "other.example.com", Endpoint: "tcp://127.0.0.1:1", MetricsAddr: ":9",
			AgentCA: "/ca", AgentCert: "/cert", AgentKey: "/key", LogLevel: "debug", LogFormat: "json",
		},
		ClassesFile: "/c", Kubeconfig: "/k", AgentTimeout: time.Second, KubeTimeout: 2 * time.Second,
		SecretTTL: 3 * time.Second, DrainTimeout: 4 * time.Second,
	})
}

func TestBadSettings(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"DRIVER_NAME", "-x", "DRIVER_NAME"},
		{"DRIVER_NAME", "a/b", "DRIVER_NAME"},
		{"DRIVER_AGENT_TIMEOUT", "soon", "DRIVER_AGENT_TIMEOUT"},
		{"DRIVER_AGENT_TIMEOUT", "0s", "DRIVER_AGENT_TIMEOUT"},
		{"DRIVER_DRAIN_TIMEOUT", "-1s", "DRIVER_DRAIN_TIMEOUT"},
	} {
		t.Run(c.name+"="+c.value, func(t *testing.T) {
			t.Setenv(c.name, c.value)
			_, err := config.Load()
			assert.ErrorContains(t, err, c.want)
		})
	}
}
