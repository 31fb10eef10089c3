package api

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// Keys of fiber.Ctx.Locals.
type (
	requestIDKey struct{}
	tenantKey    struct{}
	causeKey     struct{}
)

// observe is the outermost middleware: request ID, deadline for waiting, error response, log line
// and metrics.
func (s *Server) observe(c *fiber.Ctx) error {
	begin := time.Now()
	c.Set(agentapi.RequestIDHeader, requestID(c))
	c.Set(fiber.HeaderCacheControl, "no-store")
	c.Set(fiber.HeaderXContentTypeOptions, "nosniff")

	// fasthttp does not report when a client disconnects. A change that has begun must not be
	// interrupted anyway.
	ctx, cancel := context.WithTimeout(context.Background(), s.config.Wait)
	defer cancel()
	c.SetUserContext(ctx)

	if err := c.Next(); err != nil {
		if err := s.fail(c, err); err != nil {
			return err
		}
	}
	took := time.Since(begin)
	s.config.Observe(routeOf(c), c.Method(), c.Response().StatusCode(), took)
	s.logRequest(c, took)
	return nil
}

// requestID returns the request ID of the caller if it is safe to log, and otherwise a random one.
// It returns the same ID for each call.
func requestID(c *fiber.Ctx) string {
	if known, ok := c.Locals(requestIDKey{}).(string); ok {
		return known
	}
	given := c.Get(agentapi.RequestIDHeader)
	if !agentapi.ValidRequestID(given) {
		given = rand.Text()
	}
	c.Locals(requestIDKey{}, given)
	return given
}

// routeOf returns the pattern that a request matched. Only middleware is registered at "/".
func routeOf(c *fiber.Ctx) string {
	if route := c.Route().Path; route != "/" {
		return route
	}
	return "other"
}

// logRequest never logs headers, queries or bodies, because they contain tokens and labels of
// users.
func (s *Server) logRequest(c *fiber.Ctx, took time.Duration) {
	status := c.Response().StatusCode()
	attrs := []slog.Attr{
		slog.String("request_id", requestID(c)), slog.String("method", c.Method()), slog.String("route", routeOf(c)),
		slog.String("path", fmt.Sprintf("%.256s", c.Path())), slog.Int("status", status), slog.Duration("took", took),
		slog.String("remote", c.IP()),
	}
	if who, ok := c.Locals(tenantKey{}).(tenant); ok {
		attrs = append(attrs, slog.String("tenant", who.name))
	}
	if cause, ok := c.Locals(causeKey{}).(error); ok {
		attrs = append(attrs, slog.Any("error", cause))
	}
	s.config.Logger.LogAttrs(context.Background(), levelOf(c.Method(), status), "request", attrs...)
}

// levelOf keeps polling out of the log. Changes and failures get a line.
func levelOf(method string, status int) slog.Level {
	switch {
	case status == fiber.StatusServiceUnavailable:
		return slog.LevelWarn
	case status >= fiber.StatusInternalServerError:
		return slog.LevelError
	case status < fiber.StatusBadRequest && (method == fiber.MethodGet || method == fiber.MethodHead):
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

func (s *Server) recoverPanic(c *fiber.Ctx) (err error) {
	defer func() {
		if reason := recover(); reason != nil {
			s.config.Logger.Error("panic", "request_id", requestID(c), "reason", reason, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", reason)
		}
	}()
	return c.Next()
}

// refuseWhileDraining refuses requests on open connections. /healthz still works, because the
// process is alive.
func (s *Server) refuseWhileDraining(c *fiber.Ctx) error {
	if s.draining.Load() && c.Path() != "/healthz" {
		c.Context().SetConnectionClose()
		return errDraining
	}
	return c.Next()
}

var errDraining = agentapi.Errorf(agentapi.Unavailable, "the agent is shutting down")
