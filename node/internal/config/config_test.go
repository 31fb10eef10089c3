package config_test

import (
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
)

func TestDefaults(t *testing.T) {
	t.Setenv("DRIVER_NODE_ID", "worker-1")
	c, err := config.Load()
	assert.NilError(t, err)
	assert.Equal(t, c, config.Config{
		Settings: csiserver.Settings{DriverName: "btrfs-nfs-csi", Endpoint: "unix:///csi/csi.sock", LogLevel: "info"},
		NodeID:   "worker-1", StateDir: "/csi/state",
		MountTimeout: time.Minute, UnmountTimeout: 30 * time.Second, StatTimeout: 5 * time.Second, GroupTimeout: 20 * time.Second, DrainTimeout: 20 * time.Second,
	})
}

func TestABadEnvironmentNamesItsVariable(t *testing.T) {
	for name, c := range map[string]struct {
		env  map[string]string
		want string
	}{
		"no node name":       {map[string]string{"DRIVER_NODE_ID": ""}, "DRIVER_NODE_ID must be the node's name"},
		"endpoint":           {map[string]string{"DRIVER_ENDPOINT": "http://x"}, "DRIVER_ENDPOINT: "},
		"tcp without state":  {map[string]string{"DRIVER_ENDPOINT": "tcp://127.0.0.1:1"}, `DRIVER_STATE_DIR must be an absolute path, got ""`},
		"relative state":     {map[string]string{"DRIVER_STATE_DIR": "state"}, `DRIVER_STATE_DIR must be an absolute path, got "state"`},
		"address":            {map[string]string{"DRIVER_NODE_IP": "worker"}, "DRIVER_NODE_IP"},
		"network":            {map[string]string{"DRIVER_STORAGE_CIDR": "10.0.0.1"}, "DRIVER_STORAGE_CIDR"},
		"negative timeout":   {map[string]string{"DRIVER_MOUNT_TIMEOUT": "-1s"}, "DRIVER_MOUNT_TIMEOUT must be between 100ms and 1h, got -1s"},
		"zero timeout":       {map[string]string{"DRIVER_STAT_TIMEOUT": "0s"}, "DRIVER_STAT_TIMEOUT must be between 100ms and 1h, got 0s"},
		"endless timeout":    {map[string]string{"DRIVER_UNMOUNT_TIMEOUT": "2h"}, "DRIVER_UNMOUNT_TIMEOUT must be between 100ms and 1h, got 2h0m0s"},
		"endless drain":      {map[string]string{"DRIVER_DRAIN_TIMEOUT": "0s"}, "DRIVER_DRAIN_TIMEOUT must be between 100ms and 1h, got 0s"},
		"not a timeout":      {map[string]string{"DRIVER_GROUP_TIMEOUT": "soon"}, "DRIVER_GROUP_TIMEOUT"},
		"timeout sans units": {map[string]string{"DRIVER_GROUP_TIMEOUT": "30"}, "DRIVER_GROUP_TIMEOUT"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("DRIVER_NODE_ID", "worker-1")
			for key, value := range c.env {
				t.Setenv(key, value)
			}
			_, err := config.Load()
			assert.ErrorContains(t, err, c.want)
		})
	}
}
