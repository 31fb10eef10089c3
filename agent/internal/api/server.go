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
	// defaultReadTimeout is for slow networks. fasthttp has no bound for the header alone; with bodies of at most 1 MiB, one
	// bound is enough.
	defaultReadTimeout = 15 * time.Second
	// writeTimeout bounds the writing of one answer, from when the handler has made it: it does not end operations.
	writeTimeout = time.Minute
	// defaultIdleTimeout is longer than the 90 s of Go's default client, so that the client is the one to close and never
	// sends into a closing connection.
	defaultIdleTimeout = 2 * time.Minute
	// headerBytes bounds the request line and headers.
	headerBytes = 16 << 10
	// maxConnections is how many are served at once; further ones are refused with 503.
	maxConnections = 4096
	// defaultWait is below the 30 s that our client waits for an answer, so that the caller learns the reason.
	defaultWait = 25 * time.Second
)

// Config says what to serve.
type Config struct {
	Store  Store
	Tasks  Tasks
	Tokens *Tokens
	Logger *slog.Logger
	// Version, Commit and Date are shown by /healthz.
	Version, Commit, Date string
	// Wait bounds how long a request waits for others that change the same volume; 25 s when 0.
	Wait time.Duration
	// ReadTimeout bounds the reading of one whole request; 15 s when 0.
	ReadTimeout time.Duration
	// IdleTimeout is how long a connection may wait for its next request; 2 min when 0.
	IdleTimeout time.Duration
	// Observe is told of each answer. route is a pattern such as /v1/volumes/:name, and "other" for requests that reach none.
	// nil for none.
	Observe func(route, method string, status int, took time.Duration)
}

// Server answers the agent's HTTP API.
type Server struct {
	config   Config
	app      *fiber.App
	started  time.Time
	draining atomic.Bool

	mu       sync.Mutex
	listener net.Listener
	closed   bool
}

// New makes a server; Serve starts it.
func New(config Config) *Server {
	config = config.withDefaults()
	s := &Server{config: config, started: time.Now()}
	s.app = fiber.New(fiber.Config{
		AppName:       "btrfs-nfs-agent",
		BodyLimit:     agentapi.MaxBodyBytes,
		CaseSensitive: true,
		Concurrency:   maxConnections,
		// For a Date, fasthttp wakes up every second as long as the process lives. Nobody keeps these answers (no-store), and a
		// recipient who needs a Date adds it (RFC 9110, 6.6.1).
		DisableDefaultDate: true,
		// Else a form is read into temporary files.
		DisablePreParseMultipartForm: true,
		DisableStartupMessage:        true,
		ErrorHandler:                 s.fail,
		IdleTimeout:                  config.IdleTimeout,
		// Names outlive their request in the catalogue: without this they would be views of a buffer that is used again.
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
	s.app.Server().SecureErrorLogMessage = true // errors quote no headers, which hold tokens

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

// Serve answers on the listener (see Guard) until Shutdown, and then returns nil. It closes the listener.
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

// Shutdown takes no new connections and refuses new requests on old ones, waits for the requests under way until ctx
// ends, and says how it went.
func (s *Server) Shutdown(ctx context.Context) error {
	s.Drain()
	err := s.app.ShutdownWithContext(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.listener != nil {
		// fasthttp knows the listener only some time after Serve began; until then it has not closed it. Else it has.
		_ = s.listener.Close()
	}
	if err != nil {
		return fmt.Errorf("requests were still under way: %w", err)
	}
	return nil
}

// Drain makes /readyz answer 503 and refuses new requests, while those under way go on and connections stay open.
func (s *Server) Drain() { s.draining.Store(true) }

// refuseUnknownMethods answers in place of fiber, which would answer in plain text and past every middleware.
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

// quietLogger takes what fasthttp says of single connections, such as a client that hung up.
type quietLogger struct{ log *slog.Logger }

func (q quietLogger) Printf(format string, args ...any) {
	q.log.Debug("http server", "message", fmt.Sprintf(format, args...))
}
