package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

func TestMadeOrFound(t *testing.T) {
	h := start(t)
	for _, created := range []bool{true, false} {
		want := map[bool]int{true: 201, false: 200}[created]
		h.a().createVolume = func(context.Context, storage.VolumeSpec) (storage.Volume, bool, error) {
			return fullVolume(), created, nil
		}
		h.a().clone = func(storage.CloneSpec) (storage.Volume, bool, error) { return fullVolume(), created, nil }
		h.a().createSnapshot = func(storage.SnapshotSpec) (storage.Snapshot, bool, error) { return fullSnapshot(), created, nil }
		assert.Equal(t, h.do("POST", "/v1/volumes", `{"name":"v1"}`).status, want)
		assert.Equal(t, h.do("POST", "/v1/volumes/clone", `{"name":"v1","source":"v0"}`).status, want)
		assert.Equal(t, h.do("POST", "/v1/clones", `{"name":"v1","snapshot":"s1"}`).status, want)
		assert.Equal(t, h.do("POST", "/v1/snapshots", `{"name":"s1","volume":"v1"}`).status, want)
	}
}

func TestClonesSayFromWhat(t *testing.T) {
	h := start(t)
	var got storage.CloneSpec
	h.a().clone = func(spec storage.CloneSpec) (storage.Volume, bool, error) {
		got = spec
		return fullVolume(), true, nil
	}
	h.do("POST", "/v1/volumes/clone", `{"name":"v1","source":"v0","size_bytes":5,"labels":{"a":"b"}}`)
	assert.DeepEqual(t, got, storage.CloneSpec{Name: "v1", Volume: "v0", SizeBytes: 5, Labels: map[string]string{"a": "b"}})
	h.do("POST", "/v1/clones", `{"name":"v1","snapshot":"s1"}`)
	assert.DeepEqual(t, got, storage.CloneSpec{Name: "v1", Snapshot: "s1"})

	properties := `"nocow":false,"compression":"","root_squash":false,"uid":0,"gid":7,"mode":"0","size_limit":false,"mount_options":["hard"]}`
	want := storage.CloneSpec{Name: "v1", RequestedProperties: agentapi.RequestedProperties{
		Nocow: new(bool), Compression: new(string), RootSquash: new(bool), Uid: new(int64(0)), Gid: new(int64(7)), Mode: new("0"),
		SizeLimit: new(bool), MountOptions: &[]string{"hard"},
	}}
	ofVolume, ofSnapshot := want, want
	ofVolume.Volume, ofSnapshot.Snapshot = "v0", "s1"
	h.do("POST", "/v1/volumes/clone", `{"name":"v1","source":"v0",`+properties)
	assert.DeepEqual(t, got, ofVolume)
	h.do("POST", "/v1/clones", `{"name":"v1","snapshot":"s1",`+properties)
	assert.DeepEqual(t, got, ofSnapshot)
}

func TestUpdateChangesOnlyWhatIsGiven(t *testing.T) {
	h := start(t)
	var got storage.VolumeUpdate
	h.a().updateVolume = func(name string, u storage.VolumeUpdate) (storage.Volume, error) {
		assert.Check(t, name == "v1")
		got = u
		return fullVolume(), nil
	}
	for body, want := range map[string]storage.VolumeUpdate{
		`{}`:                         {},
		`{"size_bytes":0}`:           {SizeBytes: new(int64(0))},
		`{"labels":{}}`:              {Labels: map[string]string{}},
		`{"labels":null,"uid":null}`: {},
		`{"nocow":false,"compression":"","root_squash":false,"uid":0,"gid":7,"mode":"0"}`: {
			RequestedProperties: agentapi.RequestedProperties{
				Nocow: new(bool), Compression: new(string), RootSquash: new(bool), Uid: new(int64(0)), Gid: new(int64(7)), Mode: new("0"),
			},
		},
	} {
		assert.Equal(t, h.do("PATCH", "/v1/volumes/v1", body).status, 200, body)
		assert.DeepEqual(t, got, want)
	}
}

func TestQueriesReachTheDomain(t *testing.T) {
	h := start(t)
	var got storage.Query
	h.a().listVolumes = func(q storage.Query) (p storage.Page[storage.Volume], _ error) { got = q; return p, nil }
	h.a().listSnapshots = func(q storage.Query) (p storage.Page[storage.Snapshot], _ error) { got = q; return p, nil }
	h.a().listExports = func(q storage.Query) (p storage.Page[storage.ExportEntry], _ error) { got = q; return p, nil }
	for path, want := range map[string]storage.Query{
		"/v1/volumes":            {Limit: agentapi.MaxPage},
		"/v1/volumes?detail=1":   {Limit: agentapi.MaxPage},
		"/v1/volumes?limit=1000": {Limit: 1000},
		"/v1/volumes?limit=1&after=c%2B%2F%3D&label=a=b&label=c&label=d%3De": {Limit: 1, After: "c+/=", Labels: []string{"a=b", "c", "d=e"}},
		"/v1/volumes?label=a=b,c=d":        {Limit: agentapi.MaxPage, Labels: []string{"a=b,c=d"}},
		"/v1/snapshots?limit=2":            {Limit: 2},
		"/v1/volumes/v1/snapshots?after=x": {Limit: agentapi.MaxPage, After: "x", Volume: "v1"},
		"/v1/exports":                      {Limit: agentapi.MaxPage},
		"/v1/exports?limit=3&label=k":      {Limit: 3, Labels: []string{"k"}},
	} {
		got = storage.Query{}
		assert.Equal(t, h.do("GET", path, "").status, 200, path)
		assert.DeepEqual(t, got, want)
	}
}

// A page needs one usage call, whatever its length.
func TestAPageAsksForUsageOnce(t *testing.T) {
	h := start(t)
	var calls [][]uint64
	h.a().usage = func(ids []uint64) (map[uint64]storage.Usage, error) {
		calls = append(calls, ids)
		return nil, nil
	}
	h.a().listVolumes = func(storage.Query) (p storage.Page[storage.Volume], _ error) {
		p.Items = []storage.Volume{{ID: 300}, {ID: 301}, {ID: 302}}
		return p, nil
	}
	assert.Equal(t, h.do("GET", "/v1/volumes", "").status, 200)
	assert.DeepEqual(t, calls, [][]uint64{{300, 301, 302}})
}

func TestNamesOutliveTheirRequest(t *testing.T) {
	h := start(t)
	var kept []string
	h.a().deleteVolume = func(name string) error { kept = append(kept, name); return nil }
	for i := range 50 {
		h.do("DELETE", fmt.Sprintf("/v1/volumes/volume-%02d", i), "")
	}
	for i, name := range kept {
		assert.Equal(t, name, fmt.Sprintf("volume-%02d", i))
	}
}

func TestInternalErrorsStayInside(t *testing.T) {
	h := start(t)
	for _, cause := range []error{
		errors.New("open /secret/path: broken"),
		agentapi.Errorf(agentapi.InternalError, "rename: %w", errors.New("open /secret/path: broken")),
	} {
		h.a().deleteVolume = func(string) error { return cause }
		got := h.do("DELETE", "/v1/volumes/v", "", "X-Request-Id", "abc-1")
		assert.Equal(t, got.status, 500)
		assert.Equal(t, got.code(t), agentapi.InternalError)
		assert.Check(t, !strings.Contains(string(got.body), "secret"), "%s", got.body)
		assert.Check(t, strings.Contains(got.message(t), "abc-1"))
		assert.Check(t, strings.Contains(h.log.String(), "open /secret/path: broken"), h.log.String())
	}
}

func TestPanicsAreAnswered(t *testing.T) {
	h := start(t)
	h.a().deleteVolume = func(string) error { panic("secret") }
	got := h.do("DELETE", "/v1/volumes/v", "")
	assert.Equal(t, got.status, 500)
	assert.Equal(t, got.code(t), agentapi.InternalError)
	assert.Check(t, !strings.Contains(string(got.body), "secret"))
	assert.Check(t, strings.Contains(h.log.String(), "TestPanicsAreAnswered"), "no stack in the log")
	assert.Equal(t, h.do("GET", "/healthz", "").status, 200)
}

func TestWaitingIsBounded(t *testing.T) {
	h := start(t, func(c *Config) { c.Wait = time.Millisecond })
	h.a().createVolume = func(ctx context.Context, _ storage.VolumeSpec) (v storage.Volume, _ bool, _ error) {
		<-ctx.Done()
		return v, false, fmt.Errorf("waiting for the name: %w", ctx.Err())
	}
	got := h.do("POST", "/v1/volumes", `{"name":"v"}`)
	assert.Equal(t, got.status, 503)
	assert.Equal(t, got.code(t), agentapi.Unavailable)
}

// A change finishes even if its client disconnects.
func TestAChangeGoesOnWithoutItsClient(t *testing.T) {
	h := start(t)
	begun, hungUp, finished := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	h.a().createVolume = func(ctx context.Context, _ storage.VolumeSpec) (storage.Volume, bool, error) {
		close(begun)
		<-hungUp
		finished <- ctx.Err()
		return fullVolume(), true, nil
	}
	conn, err := net.Dial("tcp", h.address)
	assert.NilError(t, err)
	_, err = io.WriteString(conn, "POST /v1/volumes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+tokenA+"\r\nContent-Length: 2\r\n\r\n{}")
	assert.NilError(t, err)
	<-begun
	assert.NilError(t, conn.Close())
	close(hungUp)
	assert.NilError(t, <-finished)
}

func TestRequestID(t *testing.T) {
	h := start(t)
	assert.Equal(t, h.do("GET", "/healthz", "", "X-Request-Id", "caller-7").header.Get("X-Request-Id"), "caller-7")
	assert.Check(t, strings.Contains(h.log.String(), "request_id=caller-7"))
	for _, bad := range []string{"", "a b", "-x", strings.Repeat("x", 65), `x"y`, "grün"} {
		r, err := http.NewRequest(http.MethodGet, h.url+"/healthz", http.NoBody)
		assert.NilError(t, err)
		r.Header["X-Request-Id"] = []string{bad}
		got := h.send(r).header.Get("X-Request-Id")
		assert.Check(t, got != bad && len(got) == 26, "%q gave %q", bad, got)
	}
	one, other := h.do("GET", "/healthz", ""), h.do("GET", "/healthz", "")
	assert.Check(t, one.header.Get("X-Request-Id") != other.header.Get("X-Request-Id"))
}

func TestObserve(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	h := start(t, func(c *Config) {
		c.Observe = func(route, method string, status int, took time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			assert.Check(t, took > 0)
			seen = append(seen, fmt.Sprint(method, " ", route, " ", status))
		}
	})
	h.a().getVolume = func(string) (storage.Volume, error) { return fullVolume(), nil }
	h.do("GET", "/v1/volumes/v1", "")
	h.do("GET", "/v1/volumes/v1?x=1", "")
	h.do("GET", "/v1/volumes/v1", "", "Authorization", "")
	h.do("GET", "/nowhere", "")
	mu.Lock()
	defer mu.Unlock()
	assert.DeepEqual(t, seen, []string{"GET /v1/volumes/:name 200", "GET other 400", "GET other 401", "GET other 404"})
}

func TestReady(t *testing.T) {
	h := start(t)
	assert.Equal(t, h.do("GET", "/readyz", "", "Authorization", "").status, 200)
	h.store.ready = agentapi.Errorf(agentapi.Unavailable, "the pool is not mounted")
	got := h.do("GET", "/readyz", "", "Authorization", "")
	assert.Equal(t, got.status, 503)
	assert.Equal(t, got.message(t), "the pool is not mounted")
	assert.Equal(t, h.do("GET", "/healthz", "", "Authorization", "").status, 200)
}

func TestDrain(t *testing.T) {
	h := start(t)
	h.server.Drain()
	for _, path := range []string{"/readyz", "/v1/volumes", "/v1/stats"} {
		got := h.do("GET", path, "")
		assert.Equal(t, got.status, 503, path)
		assert.Equal(t, got.code(t), agentapi.Unavailable)
	}
	assert.Equal(t, h.do("GET", "/healthz", "").status, 200)
}

// The server finishes and answers a started request. It starts no new ones.
func TestShutdownFinishesStartedRequests(t *testing.T) {
	h := start(t)
	begun, goOn := make(chan struct{}), make(chan struct{})
	h.a().createVolume = func(context.Context, storage.VolumeSpec) (storage.Volume, bool, error) {
		close(begun)
		<-goOn
		return fullVolume(), true, nil
	}
	answered := make(chan answer, 1)
	go func() { answered <- h.do("POST", "/v1/volumes", `{"name":"v1"}`) }()
	<-begun

	down := make(chan error, 1)
	go func() { down <- h.server.Shutdown(context.Background()) }()
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		conn, err := net.Dial("tcp", h.address)
		if err != nil {
			return poll.Success()
		}
		_ = conn.Close()
		return poll.Continue("the server still accepts connections")
	})
	select {
	case err := <-down:
		t.Fatalf("Shutdown did not wait: %v", err)
	default:
	}
	close(goOn)
	assert.Equal(t, (<-answered).status, 201)
	assert.NilError(t, <-down)
}

func TestShutdownIsBounded(t *testing.T) {
	h := start(t)
	begun, goOn := make(chan struct{}), make(chan struct{})
	h.a().deleteVolume = func(string) error {
		close(begun)
		<-goOn
		return nil
	}
	answered := make(chan answer, 1)
	go func() { answered <- h.do("DELETE", "/v1/volumes/v1", "") }()
	<-begun
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	assert.ErrorIs(t, h.server.Shutdown(ctx), context.DeadlineExceeded)
	close(goOn)
	assert.Equal(t, (<-answered).status, 204)
}

// Idle connections, for which clients need no token, do not delay the shutdown one by one.
func TestShutdownWithIdleConnections(t *testing.T) {
	h := start(t)
	const clients = 50
	for range clients {
		conn, err := net.Dial("tcp", h.address)
		assert.NilError(t, err)
		defer conn.Close()
		_, err = io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		assert.NilError(t, err)
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		assert.NilError(t, err)
		assert.Equal(t, response.StatusCode, 200)
	}
	begin := time.Now()
	assert.NilError(t, h.server.Shutdown(t.Context()))
	assert.Assert(t, time.Since(begin) < clients*lingerTime/3, "each was waited for")
}

func TestShutdownAtOnce(t *testing.T) {
	for range 10 {
		start(t) // the cleanup often shuts down before Serve has begun
	}
}
