package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"go.uber.org/goleak"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

const (
	tokenA = "token-of-a"
	tokenB = "token-of-b"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// fasthttp keeps one clock for the process. The last cleanup of the workers of each server
		// sleeps for 10 s.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"))
}

// harness is a server on a loopback port with tenants a and b.
type harness struct {
	t       *testing.T
	store   *fakeStore
	server  *Server
	url     string
	address string // host:port
	client  *http.Client
	log     *logBuffer

	listener *guardedListener
	spec     routers.Router
}

func start(t *testing.T, adjust ...func(*Config)) *harness {
	t.Helper()
	h := &harness{t: t, log: &logBuffer{}, spec: contract(t)}
	h.store = &fakeStore{t: t, tenants: map[string]*fakeTenant{"a": {t: t}, "b": {t: t}}}
	tokens := &Tokens{}
	tokens.Add("a", tokenA)
	tokens.Add("b", tokenB)
	config := Config{
		Store: h.store, Tokens: tokens, Version: "v1.2.3", Commit: "abc", Date: "2026-01-02T03:04:05Z",
		Logger: slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, f := range adjust {
		f(&config)
	}
	h.server = New(config)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	assert.NilError(t, err)
	h.address = listener.Addr().String()
	h.url = "http://" + h.address

	served := make(chan error, 1)
	h.listener = Guard(listener).(*guardedListener)
	go func() { served <- h.server.Serve(h.listener) }()
	transport := &http.Transport{}
	h.client = &http.Client{Transport: transport, Timeout: 20 * time.Second}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		assert.Check(t, h.server.Shutdown(ctx))
		assert.Check(t, <-served)
	})
	return h
}

func (h *harness) a() *fakeTenant { return h.store.tenants["a"] }

type answer struct {
	status int
	header http.Header
	body   []byte
}

// do sends a request with the token of tenant a, unless header has another Authorization. It checks
// the response against the contract.
func (h *harness) do(method, path, body string, header ...string) answer {
	h.t.Helper()
	r, err := http.NewRequest(method, h.url+path, strings.NewReader(body))
	assert.NilError(h.t, err)
	r.Header.Set("Authorization", "Bearer "+tokenA)
	for i := 0; i < len(header); i += 2 {
		r.Header.Del(header[i])
		if header[i+1] != "" {
			r.Header.Set(header[i], header[i+1])
		}
	}
	return h.send(r)
}

func (h *harness) send(r *http.Request) answer {
	h.t.Helper()
	response, err := h.client.Do(r)
	assert.NilError(h.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	assert.NilError(h.t, err)
	got := answer{response.StatusCode, response.Header, body}
	h.conforms(r, got)
	return got
}

// conforms checks a response against the schema of its operation. If there is no such operation, it
// checks it against ErrorBody.
func (h *harness) conforms(r *http.Request, got answer) {
	h.t.Helper()
	asSpecified := r.Clone(context.Background())
	asSpecified.URL.Scheme, asSpecified.URL.Host = "", ""
	if r.Method == http.MethodHead {
		return // no body
	}
	route, params, err := h.spec.FindRoute(asSpecified)
	if err != nil {
		got.code(h.t)
		return
	}
	err = openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: asSpecified, PathParams: params, Route: route},
		Status:                 got.status, Header: got.header, Body: io.NopCloser(bytes.NewReader(got.body)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	})
	assert.Check(h.t, err, "%s %s answered %d %s", r.Method, r.URL.Path, got.status, got.body)
}

// loadContract reads the contract once, because that takes longer than most tests.
var loadContract = sync.OnceValues(func() (*openapi3.T, error) { return openapi3.NewLoader().LoadFromData(agentapi.OpenAPI) })

var routeContract = sync.OnceValues(func() (routers.Router, error) {
	document, err := loadContract()
	if err != nil {
		return nil, err
	}
	return legacy.NewRouter(document)
})

func contract(t *testing.T) routers.Router {
	t.Helper()
	router, err := routeContract()
	assert.NilError(t, err)
	return router
}

func contractDocument(t *testing.T) *openapi3.T {
	t.Helper()
	document, err := loadContract()
	assert.NilError(t, err)
	return document
}

// code returns the code of an error response. The response must have a message, and the code must
// match the status.
func (a answer) code(t *testing.T) agentapi.Code {
	t.Helper()
	var body agentapi.ErrorBody
	assert.NilError(t, json.Unmarshal(a.body, &body), "%s", a.body)
	assert.Equal(t, a.header.Get("Content-Type"), "application/json")
	assert.Check(t, body.Error != "" && body.Code.Valid(), "%s", a.body)
	return body.Code
}

func (a answer) message(t *testing.T) string {
	t.Helper()
	var body agentapi.ErrorBody
	assert.NilError(t, json.Unmarshal(a.body, &body), "%s", a.body)
	return body.Error
}

func into[T any](t *testing.T, a answer) T {
	t.Helper()
	var out T
	assert.NilError(t, json.Unmarshal(a.body, &out), "%s", a.body)
	return out
}

// logBuffer is a log that tests read while the server writes it.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
