package nfs

import (
	"errors"
	"fmt"
)

var (
	// ErrInvalid marks an export that can never work as it is.
	ErrInvalid = errors.New("invalid export")

	// ErrNotFound marks an export whose directory does not exist.
	ErrNotFound = errors.New("exported directory does not exist")

	// ErrUnavailable marks a temporary failure: the NFS server, or its tools, do not respond as
	// they should.
	ErrUnavailable = errors.New("nfs server is not available")

	// ErrUnsupported marks what this host's kernel or nfs-utils cannot do.
	ErrUnsupported = errors.New("not supported on this machine")

	// ErrClosed is returned by calls after Close.
	ErrClosed = errors.New("nfs engine is closed")
)

// ExportError names the export that an error is about.
type ExportError struct {
	Export Export
	Err    error
}

func (e *ExportError) Error() string {
	client := e.Export.Spec
	if client == "" {
		client = e.Export.Client.String()
	}
	return fmt.Sprintf("export of %q to %s: %v", e.Export.Path, client, e.Err)
}

func (e *ExportError) Unwrap() error { return e.Err }
