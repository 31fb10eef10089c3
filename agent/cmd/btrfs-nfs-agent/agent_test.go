package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
)

// asProgram makes this binary the program of the agent, for tests that need it as a separate
// process.
const asProgram = "BNC_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	goleak.VerifyTestMain(m,
		// fasthttp keeps one clock for the process. The last cleanup of the workers of each server
		// sleeps for 10 s.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"))
}

// noServer is a fake of an NFS server without clients, because this test has no kernel with one.
type noServer struct{}

func (noServer) Start(context.Context, []nfs.Export) error    { return nil }
func (noServer) Export(context.Context, []nfs.Export) error   { return nil }
func (noServer) Unexport(context.Context, []nfs.Export) error { return nil }
func (noServer) List(context.Context) ([]nfs.Export, error)   { return nil, nil }
func (noServer) Roots(context.Context) ([]nfs.Export, error)  { return nil, nil }
func (noServer) Changed() <-chan struct{}                     { return nil }

// agent is the whole agent except its export engine, on a real btrfs filesystem.
type agent struct {
	t          *testing.T
	url        string
	metricsURL string
	notified   net.PacketConn
	stop       context.CancelFunc
	ended      chan error
	log        string
}

func start(t *testing.T) *agent {
	t.Helper()
	return startOn(t, testpool.New(t, testpool.Options{}).Dir, noServer{})
}

func startOn(t *testing.T, pool string, exporter storage.Exporter) *agent {
	t.Helper()
	a := &agent{t: t, ended: make(chan error, 1), log: filepath.Join(t.TempDir(), "log")}
	socket := filepath.Join(t.TempDir(), "notify")
	var err error
	a.notified, err = net.ListenPacket("unixgram", socket)
	assert.NilError(t, err)
	t.Cleanup(func() { _ = a.notified.Close() })
	t.Setenv("NOTIFY_SOCKET", socket)
	t.Setenv("WATCHDOG_USEC", "200000")
	t.Setenv("WATCHDOG_PID", "")

	c := config.Config{
		BasePath: pool, ListenAddr: "127.0.0.1:0", MetricsAddr: "127.0.0.1:0",
		Tenants: config.Tenants{{Name: "a", Token: "token-of-a"}, {Name: "b", Token: "token-of-b"}}, ShutdownTimeout: 30 * time.Second,
	}
	file, err := os.Create(a.log)
	assert.NilError(t, err)
	t.Cleanup(func() { _ = file.Close() })
	logger := slog.New(slog.NewTextHandler(file, &slog.HandlerOptions{Level: slog.LevelDebug}))
	stored := storage.Config{BasePath: c.BasePath, Tenants: c.Tenants.Names(), Logger: logger}
	store, err := storage.Open(t.Context(), initialised(t, stored), exporter)
	assert.NilError(t, err)
	tasks, err := newTasks(c.BasePath, store, logger)
	assert.NilError(t, err)
	on, err := listen(c, logger)
	assert.NilError(t, err)
	a.url, a.metricsURL = "http://"+on.api.Addr().String(), "http://"+on.metrics.Addr().String()+"/metrics"

	ctx, cancel := context.WithCancel(context.Background())
	a.stop = cancel
	go func() {
		a.ended <- run(ctx, c, logger, store, &graceExporter{}, tasks, on)
		close(a.ended)
	}()
	t.Cleanup(func() {
		cancel()
		for range a.ended {
		}
		assert.Check(t, tasks.Close(context.Background()))
		assert.Check(t, store.Close(context.Background()))
	})
	return a
}

func (a *agent) client(token string) *agentclient.Client {
	a.t.Helper()
	client, err := agentclient.New(a.url, agentclient.Options{Token: token})
	assert.NilError(a.t, err)
	a.t.Cleanup(client.Close)
	return client
}

// ignoreNotifications reads and ignores the notifications. Without a reader the socket is full
// after a second, and the agent waits for it.
func (a *agent) ignoreNotifications() {
	assert.NilError(a.t, a.notified.SetReadDeadline(time.Time{}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 4096)
		for {
			if _, _, err := a.notified.ReadFrom(buffer); err != nil {
				return
			}
		}
	}()
	a.t.Cleanup(func() {
		a.stop()
		for range a.ended {
		}
		_ = a.notified.Close()
		<-done
	})
}

func (a *agent) waitFor(state string) {
	a.t.Helper()
	assert.NilError(a.t, a.notified.SetReadDeadline(time.Now().Add(10*time.Second)))
	buffer := make([]byte, 4096)
	for {
		n, _, err := a.notified.ReadFrom(buffer)
		assert.NilError(a.t, err, "waiting for %s", state)
		if strings.Contains(string(buffer[:n]), state) {
			return
		}
	}
}

func (a *agent) scrape() string {
	a.t.Helper()
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(a.metricsURL)
	assert.NilError(a.t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	assert.NilError(a.t, err)
	assert.Equal(a.t, response.StatusCode, 200, "%s", text)
	return string(text)
}

func TestLifecycle(t *testing.T) {
	a := start(t)
	a.waitFor("READY=1")
	a.waitFor("WATCHDOG=1")
	a.waitFor("WATCHDOG=1")
	a.ignoreNotifications()

	ctx, client := t.Context(), a.client("token-of-a")
	want := agentapi.VolumeCreate{Name: "v1", SizeBytes: 64 << 20, Labels: agentapi.Labels{"created-by": "test"}}
	want.Compression = new("zstd")
	made, err := client.CreateVolume(ctx, want)
	assert.NilError(t, err)
	again, err := client.CreateVolume(ctx, want)
	assert.NilError(t, err)
	assert.DeepEqual(t, again, made)
	_, err = client.CreateSnapshot(ctx, agentapi.SnapshotCreate{Name: "s1", Volume: "v1"})
	assert.NilError(t, err)
	_, err = client.CloneSnapshot(ctx, agentapi.SnapshotClone{Name: "v2", Snapshot: "s1", SizeBytes: 128 << 20})
	assert.NilError(t, err)
	_, err = client.CloneVolume(ctx, agentapi.VolumeClone{Name: "v3", Source: "v1"})
	assert.NilError(t, err)
	_, err = client.UpdateVolume(ctx, "v3", agentapi.VolumeUpdate{SizeBytes: new(int64(256 << 20))})
	assert.NilError(t, err)

	grant, err := client.Export(ctx, "v1", agentapi.ExportRequest{Client: "10.0.0.7"})
	assert.NilError(t, err)
	usage, err := a.client("").UsageWithToken(ctx, "v1", grant.UsageToken)
	assert.NilError(t, err)
	assert.Equal(t, usage.QuotaBytes, int64(64<<20))
	_, err = a.client("").UsageWithToken(ctx, "v2", grant.UsageToken)
	assert.Assert(t, agentapi.IsCode(err, agentapi.Forbidden), "%v", err)
	assert.Assert(t, agentapi.IsCode(client.DeleteVolume(ctx, "v1"), agentapi.Busy))
	stats, err := client.Stats(ctx)
	assert.NilError(t, err)
	assert.Assert(t, stats.TenantName == "a" && stats.Btrfs.FreeBytes > 0 && len(stats.Btrfs.Devices) == 1, "%+v", stats)

	metrics := a.scrape()
	for _, line := range []string{
		`btrfs_nfs_agent_volumes{tenant="a"} 3`, `btrfs_nfs_agent_volumes{tenant="b"} 0`, `btrfs_nfs_agent_snapshots{tenant="a"} 1`,
		`btrfs_nfs_agent_exports{tenant="a"} 1`, `btrfs_nfs_agent_volume_size_bytes{tenant="a",volume="v2"} 1.34217728e+08`,
		`btrfs_nfs_agent_collector_success{part="pool"} 1`, `btrfs_nfs_agent_collector_success{part="volumes"} 1`,
		`btrfs_nfs_agent_http_requests_total{code="201",method="POST",route="/v1/volumes"} 1`,
	} {
		assert.Check(t, strings.Contains(metrics, line+"\n"), "%s is not in\n%s", line, metrics)
	}

	assert.NilError(t, client.Unexport(ctx, "v1", agentapi.UnexportRequest{Client: "10.0.0.7"}))
	for _, name := range []string{"v1", "v1", "v2", "v3"} {
		assert.NilError(t, client.DeleteVolume(ctx, name))
	}
	assert.NilError(t, client.DeleteSnapshot(ctx, "s1"))
	assert.Check(t, !strings.Contains(a.scrape(), `volume="v1"`), "a deleted volume still has metrics")

	text, err := os.ReadFile(a.log)
	assert.NilError(t, err)
	for _, secret := range []string{"token-of", grant.UsageToken} {
		assert.Check(t, !strings.Contains(string(text), secret), "a token is in the log")
	}
}

func TestTenantsDoNotMeet(t *testing.T) {
	a := start(t)
	a.ignoreNotifications()
	ctx, one, other := t.Context(), a.client("token-of-a"), a.client("token-of-b")
	_, err := one.CreateVolume(ctx, agentapi.VolumeCreate{Name: "v1", SizeBytes: 1 << 20})
	assert.NilError(t, err)
	_, err = one.CreateVolume(ctx, agentapi.VolumeCreate{Name: "v2", SizeBytes: 1 << 20})
	assert.NilError(t, err)

	_, err = other.GetVolume(ctx, "v1")
	assert.Assert(t, agentapi.IsCode(err, agentapi.NotFound), "%v", err)
	assert.NilError(t, other.DeleteVolume(ctx, "v1"))
	page, err := one.ListVolumes(ctx, agentclient.Page{Limit: 1})
	assert.NilError(t, err)
	assert.Assert(t, page.Total == 2 && page.Next != "")
	page, err = other.ListVolumes(ctx, agentclient.Page{After: page.Next}) // a position in the list of the other tenant
	assert.NilError(t, err)
	assert.Equal(t, page.Total, 0)
	list, err := other.ListVolumes(ctx, agentclient.Page{})
	assert.NilError(t, err)
	assert.Equal(t, list.Total, 0)
}

// If the domain refuses a request, the HTTP response is 400 with the name of the field, and nothing
// is left behind.
func TestBadInput(t *testing.T) {
	a := start(t)
	a.ignoreNotifications()
	long := strings.Repeat("x", 129)
	for _, c := range [][3]string{
		{"/v1/volumes", `{"size_bytes":1048576}`, "name"}, {"/v1/volumes", `{"name":"","size_bytes":1048576}`, "name"},
		{"/v1/volumes", `{"name":"` + long + `","size_bytes":1048576}`, "name"}, {"/v1/volumes", `{"name":"a/b","size_bytes":1048576}`, "name"},
		{"/v1/volumes", `{"name":"..","size_bytes":1048576}`, "name"}, {"/v1/volumes", `{"name":"a\u0000b","size_bytes":1048576}`, "name"},
		{"/v1/volumes", `{"name":"a|b","size_bytes":1048576}`, "name"}, {"/v1/volumes", `{"name":"grün","size_bytes":1048576}`, "name"},
		{"/v1/volumes", `{"name":"\ud800","size_bytes":1048576}`, "name"}, {"/v1/volumes", `{"name":"snapshots","size_bytes":1048576}`, "name"},
		{"/v1/volumes", `{"name":"v"}`, "size_bytes"}, {"/v1/volumes", `{"name":"v","size_bytes":0}`, "size_bytes"},
		{"/v1/volumes", `{"name":"v","size_bytes":-1}`, "size_bytes"}, {"/v1/volumes", `{"name":"v","size_bytes":1048575}`, "size_bytes"},
		{"/v1/volumes", `{"name":"v","size_bytes":1048576,"quota_bytes":-1}`, "quota_bytes"}, {"/v1/volumes", `{"name":"v","size_bytes":1048576,"quota_bytes":5}`, "quota_bytes"},
		{"/v1/volumes", `{"name":"v","size_bytes":1048576,"uid":-1}`, "uid"}, {"/v1/volumes", `{"name":"v","size_bytes":1048576,"gid":65535}`, "gid"},
		{"/v1/volumes", `{"name":"v","size_bytes":1048576,"mode":"17777"}`, "mode"}, {"/v1/volumes", `{"name":"v","size_bytes":1048576,"compression":"zstd:16"}`, "compression"},
		{"/v1/volumes", `{"name":"v","size_bytes":1048576,"compression":"gzip"}`, "compression"},
		{"/v1/volumes", `{"name":"v","size_bytes":1048576,"compression":"zstd","nocow":true}`, "nocow"},
		{"/v1/volumes", `{"name":"v","size_bytes":1048576,"labels":{"A":"b"}}`, "labels"}, {"/v1/volumes", `{"name":"v","size_bytes":1048576,"labels":{"a":"b c"}}`, "labels"},
		{"/v1/volumes", `{"name":"v","size_bytes":1048576,"labels":{"":"b"}}`, "labels"}, {"/v1/volumes", `{"name":"v","size_bytes":1048576,"labels":{"a":"` + long + `"}}`, "labels"},
		{"/v1/volumes/clone", `{"name":"v","source":"../x"}`, "source"}, {"/v1/volumes/clone", `{"name":"..","source":"v0"}`, "name"},
		{"/v1/clones", `{"name":"v","snapshot":"a/b"}`, "snapshot"}, {"/v1/snapshots", `{"name":"s"}`, "volume"}, {"/v1/snapshots", `{"volume":"v0"}`, "name"},
		{"/v1/snapshots", `{"name":"a\nb","volume":"v0"}`, "name"}, {"/v1/snapshots", `{"name":"s","volume":"v0","labels":{"a b":"c"}}`, "labels"},
		{"/v1/volumes/v0/export", `{"client":"10.0.0.1","labels":{"ä":"b"}}`, "labels"},
	} {
		status, code, message := a.post(c[0], c[1])
		assert.Check(t, status == 400 && code == agentapi.Invalid && strings.Contains(message, c[2]), "%s %s: %d %s %s", c[0], c[1], status, code, message)
	}
	list, err := a.client("token-of-a").ListVolumes(t.Context(), agentclient.Page{})
	assert.NilError(t, err)
	assert.Equal(t, list.Total, 0)
	for _, path := range []string{"/v1/volumes?after=nonsense", "/v1/volumes?label=A", "/v1/volumes?label=", "/v1/exports?label=a=b%20c", "/v1/snapshots?after=%2B"} {
		status, code, _ := a.ask("GET", path, "")
		assert.Check(t, status == 400 && code == agentapi.Invalid, "%s: %d %s", path, status, code)
	}
}

// The error in docs/api.md is the response of the agent.
func TestErrorOfDocument(t *testing.T) {
	document, err := os.ReadFile("../../../docs/api.md")
	assert.NilError(t, err)
	shown := regexp.MustCompile("`({\"error\": .*?})`").FindAllStringSubmatch(string(document), -1)
	assert.Equal(t, len(shown), 1)
	var example agentapi.ErrorBody
	assert.NilError(t, json.Unmarshal([]byte(shown[0][1]), &example))
	a := start(t)
	a.ignoreNotifications()
	_, code, message := a.post("/v1/volumes", `{"name":"v","size_bytes":0}`)
	assert.Equal(t, message, example.Error)
	assert.Equal(t, code, example.Code)
}

func (a *agent) post(path, body string) (int, agentapi.Code, string) {
	return a.ask("POST", path, body)
}

func (a *agent) ask(method, path, body string) (int, agentapi.Code, string) {
	a.t.Helper()
	r, err := http.NewRequestWithContext(a.t.Context(), method, a.url+path, strings.NewReader(body))
	assert.NilError(a.t, err)
	r.Header.Set("Authorization", "Bearer token-of-a")
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(r)
	assert.NilError(a.t, err)
	defer response.Body.Close()
	var answer agentapi.ErrorBody
	assert.NilError(a.t, json.NewDecoder(response.Body).Decode(&answer))
	return response.StatusCode, answer.Code, answer.Error
}

// The agent reports a missing pool, or that of another agent, before it changes anything. It
// creates no key for file handles in the directory of the mount point, and the exports of the other
// agent stay.
func TestThePoolComesFirst(t *testing.T) {
	notMounted := filepath.Join(t.TempDir(), "pool")
	assert.NilError(t, os.Mkdir(notMounted, 0o755))
	assert.NilError(t, unix.Mount("tmpfs", notMounted, "tmpfs", 0, ""))
	t.Cleanup(func() { assert.Check(t, unix.Unmount(notMounted, 0)) })
	exports := filepath.Join(t.TempDir(), "exports")
	assert.NilError(t, os.WriteFile(exports, []byte("of another agent"), 0o644))

	other := testpool.New(t, testpool.Options{}).Dir
	opened, err := storage.OpenPool(initialised(t, storage.Config{BasePath: other}))
	assert.NilError(t, err)
	defer opened.Close()

	for base, says := range map[string]string{notMounted: "not on btrfs", other: "another agent has"} {
		c := config.Config{BasePath: base, Tenants: config.Tenants{{Name: "a", Token: "token-of-a"}}, ShutdownTimeout: time.Second}
		c.NFS.Exporter, c.NFS.ExportsFile, c.NFS.SignHandles = "kernel", exports, true
		assert.ErrorContains(t, serve(t.Context(), c, slog.New(slog.DiscardHandler)), says)
	}
	left, err := os.ReadDir(notMounted)
	assert.NilError(t, err)
	assert.Equal(t, len(left), 0, "%v", left)
	_, err = os.Stat(filepath.Join(other, ".agent", "nfs-handles.key"))
	assert.ErrorIs(t, err, os.ErrNotExist)
	text, err := os.ReadFile(exports)
	assert.NilError(t, err)
	assert.Equal(t, string(text), "of another agent")
}

// slowServer delays exports until the test lets it continue.
type slowServer struct {
	noServer
	begun, goOn chan struct{}
}

func (s slowServer) Export(context.Context, []nfs.Export) error {
	close(s.begun)
	<-s.goOn
	return nil
}

// SIGTERM cancels the context. The agent notifies systemd and finishes running requests, and idle
// connections do not delay it.
func TestDrain(t *testing.T) {
	server := slowServer{begun: make(chan struct{}), goOn: make(chan struct{})}
	goOn := sync.OnceFunc(func() { close(server.goOn) })
	a := startOn(t, testpool.New(t, testpool.Options{}).Dir, server)
	t.Cleanup(goOn)
	_, err := a.client("token-of-a").CreateVolume(t.Context(), agentapi.VolumeCreate{Name: "v1", SizeBytes: 1 << 20})
	assert.NilError(t, err) // the connection stays open
	busy, answered := a.client("token-of-a"), make(chan error, 1)
	go func() {
		_, err := busy.Export(t.Context(), "v1", agentapi.ExportRequest{Client: "192.0.2.1"})
		answered <- err
	}()
	<-server.begun
	a.stop()
	a.waitFor("STOPPING=1")
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if conn, err := net.Dial("tcp", strings.TrimPrefix(a.url, "http://")); err == nil {
			_ = conn.Close()
			return poll.Continue("it still listens")
		}
		return poll.Success()
	})
	select {
	case err := <-a.ended:
		t.Fatalf("it ended before what it had begun: %v", err)
	case err := <-answered:
		t.Fatalf("it answered before it had finished: %v", err)
	default:
	}
	goOn()
	assert.NilError(t, <-answered)
	assert.NilError(t, <-a.ended)
}

// If systemd does not read, or is gone, the agent still runs, and stops without a delay.
func TestSystemdDoesNotListen(t *testing.T) {
	for name, deafen := range map[string]func(*agent){"full": (*agent).fillNotifications, "gone": func(a *agent) { assert.NilError(a.t, a.notified.Close()) }} {
		t.Run(name, func(t *testing.T) {
			a := start(t)
			t.Cleanup(func() { _ = a.notified.Close() }) // releases an agent that waits
			a.waitFor("READY=1")
			deafen(a)
			poll.WaitOn(t, func(poll.LogT) poll.Result {
				text, err := os.ReadFile(a.log)
				if err != nil || !strings.Contains(string(text), "failed to notify systemd") {
					return poll.Continue("the log does not say so: %v", err)
				}
				return poll.Success()
			}, poll.WithTimeout(30*time.Second))
			_, err := a.client("token-of-a").ListVolumes(t.Context(), agentclient.Page{})
			assert.NilError(t, err)
			a.stop()
			select {
			case err := <-a.ended:
				assert.NilError(t, err)
			case <-time.After(30 * time.Second):
				t.Fatal("the agent waits for systemd")
			}
		})
	}
}

// fillNotifications fills the queue of the socket.
func (a *agent) fillNotifications() {
	a.t.Helper()
	conn, err := net.Dial("unixgram", a.notified.LocalAddr().String())
	assert.NilError(a.t, err)
	defer conn.Close()
	for err == nil {
		assert.NilError(a.t, conn.SetWriteDeadline(time.Now().Add(100*time.Millisecond)))
		_, err = conn.Write([]byte("X=1"))
	}
	assert.ErrorIs(a.t, err, os.ErrDeadlineExceeded)
}
