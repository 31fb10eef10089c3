// Package fakeagent is an agent in memory: the HTTP behaviour of shared/agentapi/openapi.yaml
// without btrfs and NFS. It is for tests of the controller, and as strict as the real agent.
package fakeagent

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// DefaultPoolBytes is the size of the pool and its initial free space.
const DefaultPoolBytes = 100 << 40

// Agent is one agent. Set its exported fields before Start.
type Agent struct {
	// Intercept sees every request first. It returns true if it has answered. It may be nil.
	Intercept func(w http.ResponseWriter, r *http.Request) bool
	// Features is the agent's feature list. New sets that of this version. An agent of 57e475d has
	// none.
	Features []string

	mu      sync.Mutex
	tenants map[string]*tenant // by token
	free    int64              // bytes
	seen    []Request
	server  *httptest.Server
}

// Request is a request of a client.
type Request struct {
	Method, Path     string
	Token, RequestID string
}

type tenant struct {
	name      string
	limits    *agentapi.TenantLimits
	volumes   map[string]*agentapi.VolumeDetail
	snapshots map[string]*agentapi.SnapshotDetail
}

// New returns an agent with tenants, as token to name.
func New(tenants map[string]string) *Agent {
	a := &Agent{tenants: map[string]*tenant{}, free: DefaultPoolBytes, Features: agentapi.Features()}
	for token, name := range tenants {
		a.tenants[token] = &tenant{name: name, volumes: map[string]*agentapi.VolumeDetail{}, snapshots: map[string]*agentapi.SnapshotDetail{}}
	}
	return a
}

// Start serves on a port of the loopback interface. The caller has to call Close.
func (a *Agent) Start() string {
	a.server = httptest.NewServer(a)
	return a.server.URL
}

// Close stops the server and closes its connections.
func (a *Agent) Close() { a.server.Close() }

// Requests returns the requests so far.
func (a *Agent) Requests() []Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]Request(nil), a.seen...)
}

// Rotate gives a tenant another token.
func (a *Agent) Rotate(from, to string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tenants[to] = a.tenants[from]
	delete(a.tenants, from)
}

// SetFeatures makes it an agent of another version.
func (a *Agent) SetFeatures(features ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.Features = features
}

// SetFree sets the pool's free space in bytes.
func (a *Agent) SetFree(bytes int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.free = bytes
}

// SetLimits sets the limits that the agent reports for a tenant. The agent does not enforce them.
func (a *Agent) SetLimits(token string, limits agentapi.TenantLimits) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tenants[token].limits = &limits
}

// Volume returns the present state of a tenant's volume, nil if there is none.
func (a *Agent) Volume(token, name string) *agentapi.VolumeDetail {
	a.mu.Lock()
	defer a.mu.Unlock()
	v, ok := a.tenants[token].volumes[name]
	if !ok {
		return nil
	}
	copied := cloned(v)
	return &copied
}

// Edit changes a tenant's volume without a request.
func (a *Agent) Edit(token, name string, change func(*agentapi.VolumeDetail)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(a.tenants[token].volumes[name])
}

// Count returns the number of volumes and snapshots of a tenant.
func (a *Agent) Count(token string) (volumes, snapshots int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.tenants[token].volumes), len(a.tenants[token].snapshots)
}

// ServeHTTP answers one request.
func (a *Agent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	a.mu.Lock()
	a.seen = append(a.seen, Request{Method: r.Method, Path: r.URL.Path, Token: token, RequestID: r.Header.Get(agentapi.RequestIDHeader)})
	a.mu.Unlock()
	if a.Intercept != nil && a.Intercept(w, r) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if r.URL.Path == "/healthz" || r.URL.Path == "/readyz" {
		answer(w, http.StatusOK, agentapi.Health{Status: agentapi.StatusOK, Version: "fake", Features: a.Features})
		return
	}
	t, ok := a.tenants[token]
	if !ok {
		Fail(w, agentapi.Errorf(agentapi.Unauthorized, "unknown token"))
		return
	}
	(&call{agent: a, tenant: t, w: w, r: r}).route()
}

func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }
