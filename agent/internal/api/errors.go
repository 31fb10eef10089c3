package api

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/gofiber/fiber/v2"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// fail sends an error in the form of the contract. Fiber also calls it for requests that it cannot
// read.
func (s *Server) fail(c *fiber.Ctx, err error) error {
	status, body := s.errorAnswer(c, err)
	c.Locals(causeKey{}, causeOf(err))
	if status == fiber.StatusUnauthorized {
		c.Set(fiber.HeaderWWWAuthenticate, `Bearer realm="btrfs-nfs-agent", Basic realm="btrfs-nfs-agent"`)
	}
	return c.Status(status).JSON(body)
}

func (s *Server) errorAnswer(c *fiber.Ctx, err error) (status int, body agentapi.ErrorBody) {
	if e, ok := errors.AsType[*fiber.Error](err); ok {
		return e.Code, agentapi.ErrorBody{Code: codeOfStatus(e.Code), Error: routingMessage(c, e)}
	}
	e, ok := errors.AsType[*agentapi.Error](err)
	switch {
	case !ok && errors.Is(err, context.DeadlineExceeded):
		e = agentapi.Errorf(agentapi.Unavailable, "other requests for the same name took too long, try again")
	case !ok || e.Code == agentapi.InternalError:
		// The cause may name files and commands of the host, so only the log contains it. The log
		// line has the same request ID.
		e = agentapi.Errorf(agentapi.InternalError, "internal error; the agent's log has the cause under request %s", requestID(c))
	}
	return agentapi.HTTPStatus(e), agentapi.ErrorBody{Code: e.Code, Error: e.Message}
}

// causeOf returns the error for the log, because the message of an Error may omit its cause.
func causeOf(err error) error {
	e, ok := errors.AsType[*agentapi.Error](err)
	if ok && e.Cause != nil && !strings.Contains(err.Error(), e.Cause.Error()) {
		return fmt.Errorf("%w: %w", err, e.Cause)
	}
	return err
}

func codeOfStatus(status int) agentapi.Code {
	if status == fiber.StatusNotFound || status == fiber.StatusRequestEntityTooLarge {
		return agentapi.FromHTTP(status, "", "").Code
	}
	return agentapi.BadRequest
}

func routingMessage(c *fiber.Ctx, e *fiber.Error) string {
	switch e.Code {
	case fiber.StatusNotFound:
		return fmt.Sprintf("there is no route %s %.256q", c.Method(), c.Path())
	case fiber.StatusMethodNotAllowed:
		return fmt.Sprintf("route %.256q does not take %s", c.Path(), c.Method())
	case fiber.StatusRequestEntityTooLarge:
		return fmt.Sprintf("the body is larger than %d bytes (1 MiB)", agentapi.MaxBodyBytes)
	case fiber.StatusRequestHeaderFieldsTooLarge:
		return fmt.Sprintf("request line and headers are larger than %d bytes", headerBytes)
	}
	return e.Message
}
