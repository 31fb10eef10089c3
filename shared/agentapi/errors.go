package agentapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"google.golang.org/grpc/codes"
)

// Error is what went wrong with a request, in the words of the contract. Message names the field and the limit; it
// is shown to clients and holds no secrets.
type Error struct {
	Code    Code
	Message string
	Cause   error // for logs and errors.Is; not sent to clients
}

// Errorf makes an Error. A %w operand becomes its Cause.
func Errorf(code Code, format string, args ...any) *Error {
	wrapped := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: wrapped.Error(), Cause: errors.Unwrap(wrapped)}
}

func (e *Error) Error() string { return e.Message }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Is makes errors.Is(err, &Error{Code: NotFound}) match by code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && t.Message == ""
}

// IsCode reports whether err carries the code.
func IsCode(err error, code Code) bool { return errors.Is(err, &Error{Code: code}) }

// CodeOf is the code that err carries, and InternalError for an error without one.
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return InternalError
}

// table is the one place where codes, HTTP statuses and gRPC codes meet. For a status that several codes share, the
// first row is the one that a bare status (without a readable body) is taken for.
var table = []struct {
	code   Code
	status int
	grpc   codes.Code
}{
	{Invalid, http.StatusBadRequest, codes.InvalidArgument},
	{BadRequest, http.StatusBadRequest, codes.InvalidArgument},
	{Unauthorized, http.StatusUnauthorized, codes.Unauthenticated},
	{Forbidden, http.StatusForbidden, codes.PermissionDenied},
	{NotFound, http.StatusNotFound, codes.NotFound},
	{AlreadyExists, http.StatusConflict, codes.AlreadyExists},
	// Waiting helps: the caller must first unpublish. Not Aborted, which means "the same call is under way".
	{Busy, http.StatusLocked, codes.FailedPrecondition},
	// An administrator has to act. A client that does not know the code takes the status for
	// Busy, with the same effect.
	{Quarantined, http.StatusLocked, codes.FailedPrecondition},
	{TooLarge, http.StatusRequestEntityTooLarge, codes.InvalidArgument},
	// Not ResourceExhausted, which makes Kubernetes' scheduler look for another place for the pod.
	{RateLimited, http.StatusTooManyRequests, codes.Unavailable},
	{NoSpace, http.StatusInsufficientStorage, codes.ResourceExhausted},
	{InternalError, http.StatusInternalServerError, codes.Internal},
	{MetadataError, http.StatusInternalServerError, codes.Internal},
	{Unavailable, http.StatusServiceUnavailable, codes.Unavailable},
	// Upgrading the agent helps. The request itself is good.
	{Unsupported, http.StatusNotImplemented, codes.FailedPrecondition},
}

// HTTPStatus is the status that the agent answers with for err.
func HTTPStatus(err error) int {
	code := CodeOf(err)
	for _, row := range table {
		if row.code == code {
			return row.status
		}
	}
	return http.StatusInternalServerError
}

// GRPCCode is the code that a CSI driver answers with for err. A deadline or a cancellation of the caller's stays one.
func GRPCCode(err error) codes.Code {
	switch {
	case err == nil:
		return codes.OK
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	}
	code := CodeOf(err)
	for _, row := range table {
		if row.code == code {
			return row.grpc
		}
	}
	return codes.Internal
}

// FromHTTP is the error that an answer with this status, code and message stands for. A code that is not of the contract
// (a proxy, a foreign server, a newer agent) falls back to what the status says.
func FromHTTP(status int, code Code, message string) *Error {
	if message == "" {
		message = fmt.Sprintf("the agent answered %d %s", status, http.StatusText(status))
	}
	if code.Valid() {
		return &Error{Code: code, Message: message}
	}
	for _, row := range table {
		if row.status == status {
			return &Error{Code: row.code, Message: message}
		}
	}
	switch status {
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		return &Error{Code: Unavailable, Message: message}
	}
	return &Error{Code: InternalError, Message: message}
}
