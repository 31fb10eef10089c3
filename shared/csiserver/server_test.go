package csiserver_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver/csiservertest"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/test/logbuffer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node answers NodeGetInfo as the test configures it, and NodeStageVolume with success.
type node struct {
	csi.UnimplementedNodeServer
	info func(context.Context) error
}

func (n *node) NodeGetInfo(ctx context.Context, _ *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: csiserver.RequestID(ctx)}, n.info(ctx)
}

func (n *node) NodeStageVolume(context.Context, *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	return &csi.NodeStageVolumeResponse{}, nil
}

// running is a server under test. stop stops it and returns the result of Serve.
type running struct {
	conn     *grpc.ClientConn
	client   csi.NodeClient
	metrics  net.Addr
	log      *logbuffer.Buffer
	endpoint string
	stop     func() error
}

func start(t *testing.T, n *node, change func(*csiserver.Options)) *running {
	t.Helper()
	r := &running{log: &logbuffer.Buffer{}, endpoint: "unix://" + filepath.Join(t.TempDir(), "csi.sock")}
	logger, err := csiserver.NewLogger(r.log, "debug", "json")
	assert.NilError(t, err)
	ready := make(chan struct{})
	options := csiserver.Options{
		Endpoint: r.endpoint, DriverName: "test", Logger: logger,
		Registry: csiserver.NewRegistry("test"), MetricsAddr: "127.0.0.1:0", DrainTimeout: 10 * time.Second,
		Register:  func(s *grpc.Server) { csi.RegisterNodeServer(s, n) },
		Listening: func(_, metrics net.Addr) { r.metrics = metrics; close(ready) },
	}
	if change != nil {
		change(&options)
	}
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- csiserver.Serve(ctx, options) }()
	select {
	case <-ready:
	case err := <-result:
		cancel()
		t.Fatalf("Serve ended early: %v", err)
	}
	conn, err := grpc.NewClient(r.endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	assert.NilError(t, err)
	r.conn, r.client = conn, csi.NewNodeClient(conn)
	r.stop = sync.OnceValue(func() error { cancel(); return <-result })
	t.Cleanup(func() {
		assert.NilError(t, conn.Close())
		assert.NilError(t, r.stop())
		http.DefaultClient.CloseIdleConnections()
	})
	return r
}

func TestErrorsGetTheirCodeInOnePlace(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want codes.Code
	}{
		{"an agent's error goes by the table", agentapi.Errorf(agentapi.NoSpace, "full"), codes.ResourceExhausted},
		{"also when wrapped", fmt.Errorf("creating: %w", agentapi.Errorf(agentapi.Busy, "in use")), codes.FailedPrecondition},
		{"a status passes", status.Error(codes.OutOfRange, "too big"), codes.OutOfRange},
		{"a deadline stays one", fmt.Errorf("asking: %w", context.DeadlineExceeded), codes.DeadlineExceeded},
		{"anything else is internal", errors.New("what"), codes.Internal},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := start(t, &node{info: func(context.Context) error { return c.err }}, nil)
			_, err := r.client.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
			assert.Equal(t, status.Code(err), c.want)
		})
	}
}

func TestAPanicIsAnErrorAndTheServerGoesOn(t *testing.T) {
	calls := 0
	r := start(t, &node{info: func(context.Context) error {
		if calls++; calls == 1 {
			panic("boom")
		}
		return nil
	}}, nil)
	_, err := r.client.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	assert.Equal(t, status.Code(err), codes.Internal)
	_, err = r.client.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	assert.NilError(t, err)
	assert.Assert(t, cmp.Contains(r.log.String(), "boom"))
}

func TestSecretsNeverReachTheLog(t *testing.T) {
	r := start(t, &node{}, nil)
	_, err := r.client.NodeStageVolume(t.Context(), &csi.NodeStageVolumeRequest{
		VolumeId: "class|vol", Secrets: map[string]string{"agentToken": "s3cret"},
		PublishContext: map[string]string{csiserver.ContextUsageToken: "us4ge", "nfsServer": "10.0.0.1"},
	})
	assert.NilError(t, err)
	log := r.log.String()
	assert.Assert(t, cmp.Contains(log, `class|vol`))
	assert.Assert(t, cmp.Contains(log, "10.0.0.1"), "the request is logged at debug")
	assert.Assert(t, !strings.Contains(log, "s3cret"), log)
	assert.Assert(t, !strings.Contains(log, "us4ge"), log)
}

func TestRequestIDIsTheCallersOrMade(t *testing.T) {
	r := start(t, &node{info: func(context.Context) error { return nil }}, nil)
	answer, err := r.client.NodeGetInfo(metadata.AppendToOutgoingContext(t.Context(), "x-request-id", "abc-1"), &csi.NodeGetInfoRequest{})
	assert.NilError(t, err)
	assert.Equal(t, answer.NodeId, "abc-1")
	assert.Assert(t, cmp.Contains(r.log.String(), "abc-1"))

	made := map[string]bool{}
	for _, bad := range []string{"", strings.Repeat("x", 65), "a/b", "-x"} { // which the agent would not keep
		answer, err := r.client.NodeGetInfo(metadata.AppendToOutgoingContext(t.Context(), "x-request-id", bad), &csi.NodeGetInfoRequest{})
		assert.NilError(t, err)
		assert.Equal(t, len(answer.NodeId), 36, "a UUID in place of %q", bad)
		assert.Assert(t, !made[answer.NodeId])
		made[answer.NodeId] = true
	}
}

func TestMetricsCountByMethodAndCode(t *testing.T) {
	var observe func(string, time.Duration, error)
	r := start(t, &node{info: func(context.Context) error { return agentapi.Errorf(agentapi.NotFound, "none") }}, func(o *csiserver.Options) {
		observe = csiserver.AgentObserver(o.Registry)
	})
	_, err := r.client.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	assert.Equal(t, status.Code(err), codes.NotFound)
	observe("GetVolume", time.Millisecond, nil)
	observe("GetVolume", time.Millisecond, agentapi.Errorf(agentapi.Busy, "x"))

	text := csiservertest.Metrics(t, r.metrics.String())
	for _, line := range []string{
		`btrfs_nfs_csi_csi_requests_total{code="NotFound",method="NodeGetInfo"} 1`,
		`btrfs_nfs_csi_csi_request_duration_seconds_count{method="NodeGetInfo"} 1`,
		`btrfs_nfs_csi_agent_requests_total{code="OK",operation="GetVolume"} 1`,
		`btrfs_nfs_csi_agent_requests_total{code="BUSY",operation="GetVolume"} 1`,
		`btrfs_nfs_csi_build_info{commit="unknown",component="test",date="unknown",version="dev"} 1`,
	} {
		assert.Assert(t, cmp.Contains(text, line))
	}
}

func TestDrainLetsCallsFinish(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	r := start(t, &node{info: func(ctx context.Context) error {
		close(entered)
		<-release
		return ctx.Err()
	}}, nil)
	result := make(chan error, 1)
	go func() {
		_, err := r.client.NodeGetInfo(context.Background(), &csi.NodeGetInfoRequest{})
		result <- err
	}()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- r.stop() }()
	select {
	case err := <-stopped:
		t.Fatalf("Serve returned %v with a call under way", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	assert.NilError(t, <-result)
	assert.NilError(t, <-stopped)
}

func TestDrainIsBounded(t *testing.T) {
	entered := make(chan struct{})
	r := start(t, &node{info: func(ctx context.Context) error {
		close(entered)
		<-ctx.Done()
		return ctx.Err()
	}}, func(o *csiserver.Options) { o.DrainTimeout = 20 * time.Millisecond })
	result := make(chan error, 1)
	go func() {
		_, err := r.client.NodeGetInfo(context.Background(), &csi.NodeGetInfoRequest{})
		result <- err
	}()
	<-entered
	assert.NilError(t, r.stop())
	assert.Assert(t, <-result != nil)
}

func TestASecondServerOnALiveSocketFails(t *testing.T) {
	r := start(t, &node{info: func(context.Context) error { return nil }}, nil)
	_, err := csiserver.Listen(r.endpoint)
	assert.ErrorContains(t, err, "another process is serving")
	_, err = r.client.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	assert.NilError(t, err, "the first one is not disturbed")
}

func TestAMetricsAddressInUseEndsTheStart(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	assert.NilError(t, err)
	defer func() { assert.NilError(t, taken.Close()) }()
	err = csiserver.Serve(t.Context(), csiserver.Options{
		Endpoint: "unix://" + filepath.Join(t.TempDir(), "csi.sock"), Logger: slog.New(slog.DiscardHandler),
		Registry: prometheus.NewRegistry(), MetricsAddr: taken.Addr().String(),
	})
	assert.ErrorContains(t, err, "metrics listener")
}
