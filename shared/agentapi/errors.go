package agentapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"google.golang.org/grpc/codes"
)

// Error is an error of a request, with a code of the contract. Message names the field and the
// limit. Clients see it, so it holds no secrets.
type Error struct {
	Code    Code
	Message string
	Cause   error // for logs and errors.Is; not sent to clients
}

// Errorf returns an Error. A %w operand becomes its Cause.
func Errorf(code Code, format string, args ...any) *Error {
	wrapped := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: wrapped.Error(), Cause: errors.Unwrap(wrapped)}
}

func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Is makes errors.Is(err, &Error{Code: NotFound}) compare codes.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && t.Message == ""
}

// IsCode reports whether err has the code.
func IsCode(err error, code Code) bool { return errors.Is(err, &Error{Code: code}) }

// CodeOf returns the code of err, and InternalError for an error without one.
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return InternalError
}

// table is the only place that relates codes, HTTP statuses and gRPC codes. If several codes share
// a status, the first row applies to an answer without a readable body.
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
	// Waiting helps: the caller must first unpublish. Not Aborted, which means that the same call is
	// in progress.
	{Busy, http.StatusLocked, codes.FailedPrecondition},
	// An administrator has to act. A client that does not know the code treats the status as Busy,
	// with the same effect.
	{Quarantined, http.StatusLocked, codes.FailedPrecondition},
	{TooLarge, http.StatusRequestEntityTooLarge, codes.InvalidArgument},
	// Not ResourceExhausted, which makes the Kubernetes scheduler choose another node for the pod.
	{RateLimited, http.StatusTooManyRequests, codes.Unavailable},
	{NoSpace, http.StatusInsufficientStorage, codes.ResourceExhausted},
	{InternalError, http.StatusInternalServerError, codes.Internal},
	{MetadataError, http.StatusInternalServerError, codes.Internal},
	{Unavailable, http.StatusServiceUnavailable, codes.Unavailable},
	// An upgrade of the agent helps. The request itself is valid.
	{Unsupported, http.StatusNotImplemented, codes.FailedPrecondition},
}

// HTTPStatus returns the status of the agent's answer for err.
func HTTPStatus(err error) int {
	code := CodeOf(err)
	for _, row := range table {
		if row.code == code {
			return row.status
		}
	}
	return http.StatusInternalServerError
}

// GRPCCode returns the code of a CSI driver's answer for err. The caller's deadline or cancellation
// keeps its code.
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

// FromHTTP returns the error for an answer with this status, code and message. A code outside the
// contract (a proxy, a foreign server, a newer agent) is replaced by the code of the status.
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
