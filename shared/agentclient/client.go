// Package agentclient calls the agent's HTTP API. It adds typed errors, deadlines, TLS and paging
// to the generated client.
package agentclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient/wire"
)

const (
	// DefaultTimeout limits one call if Options set no timeout.
	DefaultTimeout = 30 * time.Second

	// dialTimeout distinguishes an unreachable host from a slow agent. It leaves time for three
	// attempts of the kernel, at 0, 1 and 3 s (tcp(7), tcp_syn_retries).
	dialTimeout = 5 * time.Second

	maxAnswerBytes = 64 << 20 // fits a detailed list of tens of thousands of volumes; no agent sends more
)

// Options configure the access to an agent. The zero value works for plain HTTP without a token.
type Options struct {
	Token     string        // tenant token; empty for calls that need none
	Source    TokenSource   // source to read the token again after the agent refuses it; nil if there is none
	Timeout   time.Duration // for one call; 0 means DefaultTimeout
	TLS       TLSFiles
	UserAgent string
	// RequestID returns the ID that the agent logs for a call. A nil RequestID sends none.
	RequestID func(context.Context) string
	// Observe receives the operation, duration and result of each call. It may be nil.
	Observe func(operation string, took time.Duration, err error)
	// NameAgent prefixes each error with the URL of the agent.
	NameAgent bool
}

// Client calls one agent with one token. It is safe for concurrent use. It keeps connections open
// until Close.
type Client struct {
	wire      *wire.Client
	url       string
	named     bool // whether errors name the agent
	source    TokenSource
	token     atomic.Pointer[string]
	transport *http.Transport
	timeout   time.Duration
	observe   func(string, time.Duration, error)
	features  features
}

// New returns a client for an agent at http://host:port or https://host:port. It does not call the
// agent. It fails if the URL has another form or if TLS files cannot be read.
func New(agentURL string, o Options) (*Client, error) {
	base, err := ParseURL(agentURL)
	if err != nil {
		return nil, err
	}
	tlsConfig, err := o.TLS.config()
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = (&net.Dialer{Timeout: dialTimeout}).DialContext
	transport.TLSClientConfig = tlsConfig
	transport.MaxIdleConnsPerHost = 16
	transport.Proxy = nil // the agent is nearby; a proxy from the environment would receive the token

	c := &Client{url: agentURL, named: o.NameAgent, source: o.Source, transport: transport, timeout: o.Timeout, observe: o.Observe}
	c.token.Store(&o.Token)
	if c.timeout <= 0 {
		c.timeout = DefaultTimeout
	}
	if c.observe == nil {
		c.observe = func(string, time.Duration, error) {}
	}
	c.wire, err = wire.NewClient(base.String(),
		wire.WithHTTPClient(&http.Client{Transport: transport, CheckRedirect: refuseRedirect}),
		wire.WithRequestEditorFn(c.sendToken), wire.WithRequestEditorFn(o.editRequest))
	return c, err
}

// ParseURL checks an agent URL: http or https, a host, and no path except "/".
func ParseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, fmt.Errorf("agent URL %q: %w", s, err)
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("agent URL must begin with http:// or https://, got %q", s)
	case u.Hostname() == "":
		return nil, fmt.Errorf("agent URL must name a host, got %q", s)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("agent URL must have only scheme, host, port and path, got %q", u.Redacted())
	}
	return u, nil
}

// Close closes idle connections.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// refuseRedirect prevents a redirect from sending the token to a server that is not configured.
func refuseRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

func (c *Client) sendToken(_ context.Context, r *http.Request) error {
	if token := *c.token.Load(); token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return nil
}

func (o Options) editRequest(ctx context.Context, r *http.Request) error {
	if o.UserAgent != "" {
		r.Header.Set("User-Agent", o.UserAgent)
	}
	if o.RequestID != nil {
		if id := o.RequestID(ctx); id != "" {
			r.Header.Set(agentapi.RequestIDHeader, id)
		}
	}
	return nil
}

// do makes one call within the client's timeout and the caller's deadline, whichever is earlier. It
// decodes the answer into out, which may be nil. It repeats a call if the agent refused a token
// that was rotated. Every error has a code of agentapi. errors.Is finds a deadline in it.
func (c *Client) do(ctx context.Context, operation string, out any, call func(context.Context) (*http.Response, error)) (err error) {
	begin := time.Now()
	defer func() {
		c.observe(operation, time.Since(begin), err)
		err = c.name(err)
	}()
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()

	token := *c.token.Load()
	answer, err := call(ctx)
	if err == nil && answer.StatusCode == http.StatusUnauthorized && c.renew(ctx, token) {
		answer.Body.Close()
		answer, err = call(ctx)
	}
	if err != nil {
		return unreachable(operation, err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswerBytes+1))
	switch {
	case err != nil:
		return unreachable(operation, err)
	case len(body) > maxAnswerBytes:
		return agentapi.Errorf(agentapi.InternalError, "%s: the answer is larger than %d bytes", operation, maxAnswerBytes)
	case answer.StatusCode/100 != 2:
		return failed(answer, body)
	case out == nil && answer.StatusCode != http.StatusNoContent:
		// If the client took a foreign server's 200 for success, the volume would stay although its owner
		// believes it deleted, or a client would keep access although the caller believes it fenced.
		return agentapi.Errorf(agentapi.InternalError, "%s: the answer is %d, not 204: is this an agent?", operation, answer.StatusCode)
	case out == nil:
		return nil
	}
	return decode(operation, answer, body, out)
}

func (c *Client) name(err error) error {
	if err == nil || !c.named {
		return err
	}
	return fmt.Errorf("agent %s: %w", c.url, err)
}

func unreachable(operation string, err error) error {
	// The caller already knows the URL in a *url.Error.
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	return agentapi.Errorf(agentapi.Unavailable, "%s: cannot reach the agent: %w", operation, err)
}

func failed(answer *http.Response, body []byte) error {
	var e agentapi.ErrorBody
	if json.Unmarshal(body, &e) != nil {
		e = agentapi.ErrorBody{}
	}
	return agentapi.FromHTTP(answer.StatusCode, e.Code, e.Error)
}

func decode(operation string, answer *http.Response, body []byte, out any) error {
	kind, _, err := mime.ParseMediaType(answer.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		return agentapi.Errorf(agentapi.InternalError, "%s: the answer is not JSON (Content-Type %q): is this an agent?", operation, answer.Header.Get("Content-Type"))
	}
	if err := json.NewDecoder(bytes.NewReader(body)).Decode(out); err != nil {
		return agentapi.Errorf(agentapi.InternalError, "%s: read the answer: %w", operation, err)
	}
	return nil
}
