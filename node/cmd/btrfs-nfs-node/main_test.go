package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver/csiservertest"
)

// TestRun starts the driver from its environment, calls it, and stops it.
func TestRun(t *testing.T) {
	dir, metrics := t.TempDir(), csiservertest.MetricsAddr()
	for key, value := range map[string]string{
		"DRIVER_ENDPOINT": "unix://" + filepath.Join(dir, "csi.sock"), "DRIVER_NODE_ID": "worker-1", "DRIVER_NODE_IP": "fd00::7",
		"DRIVER_METRICS_ADDR": metrics, "LOG_FORMAT": "json",
	} {
		t.Setenv(key, value)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()

	conn, err := grpc.NewClient("unix://"+filepath.Join(dir, "csi.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	assert.NilError(t, err)
	defer func() { assert.NilError(t, conn.Close()) }()
	identity := csi.NewIdentityClient(conn)
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		select {
		case err := <-ended:
			return poll.Error(err)
		default:
		}
		if _, err := identity.GetPluginInfo(t.Context(), &csi.GetPluginInfoRequest{}); err != nil {
			return poll.Continue("%v", err)
		}
		return poll.Success()
	}, poll.WithTimeout(30*time.Second))

	info, err := identity.GetPluginInfo(t.Context(), &csi.GetPluginInfoRequest{})
	assert.NilError(t, err)
	assert.Equal(t, info.Name, "btrfs-nfs-csi")
	probe, err := identity.Probe(t.Context(), &csi.ProbeRequest{})
	assert.NilError(t, err)
	assert.Equal(t, probe.Ready.GetValue(), nfsmount.Supported(t.Context()) == nil, "ready exactly where NFS can be mounted")
	node, err := csi.NewNodeClient(conn).NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	assert.NilError(t, err)
	assert.Equal(t, node.NodeId, "worker-1|fd00::7")

	_, err = csi.NewNodeClient(conn).NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: "a|b", TargetPath: filepath.Join(dir, "none")})
	assert.NilError(t, err)
	text := csiservertest.Metrics(t, metrics)
	assert.Assert(t, cmp.Contains(text, `btrfs_nfs_csi_node_mount_operations_total{code="OK",operation="unbind"} 1`))
	assert.Assert(t, cmp.Contains(text, `btrfs_nfs_csi_csi_requests_total{code="OK",method="NodeUnpublishVolume"} 1`))

	state, err := os.Stat(filepath.Join(dir, "state"))
	assert.NilError(t, err)
	assert.Equal(t, state.Mode().Perm(), os.FileMode(0o700))
	stop()
	assert.NilError(t, <-ended)
}

func TestRunRefusesABadEnvironment(t *testing.T) {
	for name, env := range map[string]map[string]string{
		"DRIVER_NODE_ID":    {"DRIVER_NODE_ID": ""},
		"log level":         {"LOG_LEVEL": "loud"},
		"state directory":   {"DRIVER_STATE_DIR": "/dev/null/state"},
		"DRIVER_AGENT_CA":   {"DRIVER_AGENT_CA": "/dev/null"},
		"DRIVER_AGENT_CERT": {"DRIVER_AGENT_CERT": "/dev/null", "DRIVER_AGENT_KEY": "/dev/null"},
		"DRIVER_AGENT_KEY":  {"DRIVER_AGENT_CERT": "/dev/null"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("DRIVER_NODE_ID", "worker-1")
			t.Setenv("DRIVER_ENDPOINT", "unix://"+filepath.Join(t.TempDir(), "csi.sock"))
			for key, value := range env {
				t.Setenv(key, value)
			}
			ctx, stop := context.WithTimeout(t.Context(), 10*time.Second) // stops a driver that starts despite the error
			defer stop()
			err := run(ctx)
			assert.Assert(t, err != nil && strings.Contains(err.Error(), name), "%v", err)
		})
	}
}
