package api

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

const (
	// defaultReadTimeout allows for slow networks. fasthttp has no limit for the header alone.
	// Bodies have at most 1 MiB, so one limit is enough.
	defaultReadTimeout = 15 * time.Second
	// writeTimeout limits the writing of one response after the handler has returned. It does not
	// end operations.
	writeTimeout = time.Minute
	// defaultIdleTimeout is longer than the 90 s of Go's default client. So the client closes the
	// connection, and never sends into a closing one.
	defaultIdleTimeout = 2 * time.Minute
	// headerBytes limits the request line and headers.
	headerBytes = 16 << 10
	// maxConnections is how many connections are served concurrently. Others are refused with 503.
	maxConnections = 4096
	// defaultWait is below the 30 s that our client waits for a response, so that the caller gets
	// the reason.
	defaultWait = 25 * time.Second
)

// Config configures a Server.
type Config struct {
	Store  Store
	Tasks  Tasks
	Tokens *Tokens
	Logger *slog.Logger
	// Version, Commit and Date are shown by /healthz.
	Version, Commit, Date string
	// Wait limits how long a request waits for other changes of the same volume. 0 means 25 s.
	Wait time.Duration
	// ReadTimeout limits the reading of one whole request. 0 means 15 s.
	ReadTimeout time.Duration
	// IdleTimeout is how long a connection may wait for its next request. 0 means 2 min.
	IdleTimeout time.Duration
	// Observe gets each response. route is a pattern such as /v1/volumes/:name, or "other" for
	// requests that match none. It may be nil.
	Observe func(route, method string, status int, took time.Duration)
}

// Server serves the HTTP API of the agent.
type Server struct {
	config   Config
	app      *fiber.App
	started  time.Time
	draining atomic.Bool

	mu       sync.Mutex
	listener net.Listener
	closed   bool
}

// New creates a server. Serve starts it.
func New(config Config) *Server {
	config = config.withDefaults()
	s := &Server{config: config, started: time.Now()}
	s.app = fiber.New(fiber.Config{
		AppName:       "btrfs-nfs-agent",
		BodyLimit:     agentapi.MaxBodyBytes,
		CaseSensitive: true,
		Concurrency:   maxConnections,
		// For a Date header, fasthttp wakes up every second for the whole life of the process.
		// Responses are not cached (no-store), and a recipient that needs a Date adds it (RFC 9110,
		// 6.6.1).
		DisableDefaultDate: true,
		// Otherwise fasthttp writes forms into temporary files.
		DisablePreParseMultipartForm: true,
		DisableStartupMessage:        true,
		ErrorHandler:                 s.fail,
		IdleTimeout:                  config.IdleTimeout,
		// The catalogue keeps names longer than their request. Without this option they would point
		// into a buffer that fasthttp reuses.
		Immutable:      true,
		ReadBufferSize: headerBytes,
		ReadTimeout:    config.ReadTimeout,
		StrictRouting:  true,
		WriteTimeout:   writeTimeout,
		RequestMethods: []string{fiber.MethodGet, fiber.MethodHead, fiber.MethodPost, fiber.MethodPatch, fiber.MethodDelete},
	})
	s.app.Server().Handler = refuseUnknownMethods(s.app.Server().Handler)
	s.app.Server().HeaderReceived = s.dropBodyOfStranger
	s.app.Server().Logger = quietLogger{config.Logger}
	s.app.Server().SecureErrorLogMessage = true // errors quote no headers, because they contain tokens

	s.app.Use(s.observe, s.recoverPanic, s.refuseWhileDraining, s.authenticate, checkQuery)
	RegisterHandlersWithOptions(s.app, &handlers{Server: s}, FiberServerOptions{
		HandlerMiddlewares: []HandlerMiddlewareFunc{refuseForeignQuery, refuseForeignBody},
	})
	return s
}

func (c Config) withDefaults() Config {
	setDefault(&c.Wait, defaultWait)
	setDefault(&c.ReadTimeout, defaultReadTimeout)
	setDefault(&c.IdleTimeout, defaultIdleTimeout)
	if c.Observe == nil {
		c.Observe = func(string, string, int, time.Duration) {}
	}
	return c
}

func setDefault(field *time.Duration, value time.Duration) {
	if *field <= 0 {
		*field = value
	}
}

// Serve serves requests on the listener (see Guard) until Shutdown, and then returns nil. It closes
// the listener.
func (s *Server) Serve(listener net.Listener) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return listener.Close() // Shutdown came first
	}
	s.listener = listener
	s.mu.Unlock()
	if err := s.app.Listener(listener); err != nil {
		return fmt.Errorf("serving %s: %w", listener.Addr(), err)
	}
	return nil
}

// Shutdown accepts no new connections and refuses new requests on old ones. It waits for running
// requests until ctx ends, and returns an error if some are left.
func (s *Server) Shutdown(ctx context.Context) error {
	s.Drain()
	err := s.app.ShutdownWithContext(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.listener != nil {
		// fasthttp knows the listener only some time after Serve began. Before that it has not
		// closed the listener, and after that it has.
		_ = s.listener.Close()
	}
	if err != nil {
		return fmt.Errorf("requests were still under way: %w", err)
	}
	return nil
}

// Drain makes /readyz return 503 and refuses new requests. Running requests continue and
// connections stay open.
func (s *Server) Drain() { s.draining.Store(true) }

// refuseUnknownMethods responds in place of fiber, which would send plain text and skip all
// middleware.
func refuseUnknownMethods(next fasthttp.RequestHandler) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		switch string(ctx.Method()) {
		case fiber.MethodGet, fiber.MethodHead, fiber.MethodPost, fiber.MethodPatch, fiber.MethodDelete:
			next(ctx)
		default:
			ctx.SetStatusCode(fiber.StatusMethodNotAllowed)
			ctx.SetContentType(fiber.MIMEApplicationJSON)
			ctx.SetBodyString(`{"code":"BAD_REQUEST","error":"this method is not used by any route"}`)
		}
	}
}

// quietLogger logs messages of fasthttp about single connections, for example of a client that
// disconnected.
type quietLogger struct{ log *slog.Logger }

func (q quietLogger) Printf(format string, args ...any) {
	q.log.Debug("http server", "message", fmt.Sprintf(format, args...))
}
