package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/fakeagent"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver/csiservertest"
)

// asMain makes the test binary run the driver's main function.
const asMain = "BNC_TEST_AS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestRun starts the driver from its environment, creates a volume at an agent, and stops the
// driver with the kubelet's signal.
func TestRun(t *testing.T) {
	agent := fakeagent.New(map[string]string{"the-token": "tenant"})
	url := agent.Start()
	t.Cleanup(agent.Close)
	dir := t.TempDir()
	classes, socket := filepath.Join(dir, "classes.yaml"), "unix://"+filepath.Join(dir, "csi.sock")
	assert.NilError(t, os.WriteFile(classes, fmt.Appendf(nil, "- {name: fast, token: the-token, parameters: {agentURL: %q}}\n", url), 0o600))
	metrics := csiservertest.MetricsAddr()
	driver := exec.Command(os.Args[0])
	driver.Env = append(os.Environ(), asMain+"=1", "DRIVER_ENDPOINT="+socket, "DRIVER_CLASSES_FILE="+classes, "DRIVER_METRICS_ADDR="+metrics, "LOG_FORMAT=json")
	var log strings.Builder
	driver.Stderr = &log
	assert.NilError(t, driver.Start())
	ended := make(chan error, 1)
	go func() { ended <- driver.Wait() }()
	t.Cleanup(func() { _ = driver.Process.Kill() })

	conn, err := grpc.NewClient(socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	assert.NilError(t, err)
	defer func() { assert.NilError(t, conn.Close()) }()
	identity := csi.NewIdentityClient(conn)
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		select {
		case err := <-ended:
			return poll.Error(fmt.Errorf("it ended: %w: %s", err, log.String()))
		default:
		}
		probe, err := identity.Probe(t.Context(), &csi.ProbeRequest{})
		if err != nil || !probe.Ready.GetValue() {
			return poll.Continue("%v, %v", probe, err)
		}
		return poll.Success()
	}, poll.WithTimeout(30*time.Second))
	info, err := identity.GetPluginInfo(t.Context(), &csi.GetPluginInfoRequest{})
	assert.NilError(t, err)
	assert.Equal(t, info.Name, "btrfs-nfs-csi")

	made, err := csi.NewControllerClient(conn).CreateVolume(t.Context(), &csi.CreateVolumeRequest{
		Name: "pvc-1", CapacityRange: &csi.CapacityRange{RequiredBytes: 1 << 30},
		VolumeCapabilities: []*csi.VolumeCapability{{
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER},
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
		}},
	})
	assert.NilError(t, err)
	assert.Equal(t, made.Volume.VolumeId, "fast|pvc-1")
	assert.Assert(t, agent.Volume("the-token", "pvc-1") != nil)

	text := csiservertest.Metrics(t, metrics)
	for _, want := range []string{
		`btrfs_nfs_csi_csi_requests_total{code="OK",method="CreateVolume"} 1`,
		`btrfs_nfs_csi_csi_request_duration_seconds_count{method="CreateVolume"} 1`,
		`btrfs_nfs_csi_agent_requests_total{code="OK",operation="CreateVolume"} 1`,
		`btrfs_nfs_csi_agent_request_duration_seconds_count{operation="CreateVolume"} 1`,
	} {
		assert.Check(t, cmp.Contains(text, want))
	}
	assert.NilError(t, driver.Process.Signal(syscall.SIGTERM))
	select {
	case err := <-ended:
		assert.NilError(t, err, log.String())
	case <-time.After(30 * time.Second):
		t.Fatal("SIGTERM does not end it")
	}
	assert.Assert(t, cmp.Contains(log.String(), "draining"))
	assert.Assert(t, !strings.Contains(log.String(), "the-token"))
	_, err = os.Stat(filepath.Join(dir, "csi.sock"))
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func TestRunRefusesABadEnvironment(t *testing.T) {
	dir := t.TempDir()
	classes := filepath.Join(dir, "classes.yaml")
	assert.NilError(t, os.WriteFile(classes, []byte("- {name: fast, token: x, parameters: {agentURL: \"http://192.0.2.1\"}}\n"), 0o600))
	for name, c := range map[string]struct {
		env  map[string]string
		says string
	}{
		"driver name":     {map[string]string{"DRIVER_NAME": "-"}, "DRIVER_NAME"},
		"log level":       {map[string]string{"LOG_LEVEL": "loud"}, "log level"},
		"a timeout":       {map[string]string{"DRIVER_AGENT_TIMEOUT": "soon"}, "DRIVER_AGENT_TIMEOUT"},
		"endpoint":        {map[string]string{"DRIVER_ENDPOINT": "ftp://x"}, "ftp://x"},
		"CA":              {map[string]string{"DRIVER_AGENT_CA": filepath.Join(dir, "none")}, "DRIVER_AGENT_CA"},
		"half a pair":     {map[string]string{"DRIVER_AGENT_CERT": "x"}, "DRIVER_AGENT_KEY"},
		"no classes file": {map[string]string{"DRIVER_CLASSES_FILE": filepath.Join(dir, "none")}, "classes file"},
		"no source":       {map[string]string{"DRIVER_CLASSES_FILE": ""}, "DRIVER_CLASSES_FILE"},
		"kubeconfig":      {map[string]string{"KUBECONFIG": filepath.Join(dir, "none")}, "KUBECONFIG"},
		"metrics address": {map[string]string{"DRIVER_METRICS_ADDR": "nowhere"}, "nowhere"},
	} {
		t.Run(name, func(t *testing.T) {
			setEnvironment(t, map[string]string{"DRIVER_ENDPOINT": "unix://" + filepath.Join(t.TempDir(), "csi.sock"), "DRIVER_CLASSES_FILE": classes})
			setEnvironment(t, c.env)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			err := run(ctx)
			assert.Assert(t, err != nil && strings.Contains(err.Error(), c.says), "%v", err)
		})
	}
}

func setEnvironment(t *testing.T, env map[string]string) {
	t.Helper()
	for key, value := range env {
		t.Setenv(key, value)
	}
}
