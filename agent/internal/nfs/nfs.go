// Package nfs defines which directories the kernel's NFS server exports to which clients.
//
// It contains types and interfaces only. The engines are in exportfs (runs nfs-utils) and kernel
// (writes the kernel's export caches). Package engine chooses between them. nfstest is the test
// suite that both pass.
package nfs

import (
	"context"
	"net/netip"

	"github.com/google/uuid"
)

// Exporter keeps the NFS server's exports below one base path equal to the exports that it was
// given. It never changes exports of other paths. All methods are safe for concurrent use.
// Concurrent calls share work.
//
// Errors: ErrInvalid for an export that can never work, ErrNotFound for a path that does not exist,
// ErrUnavailable while the NFS server or its tools cannot be reached (a later call may succeed),
// ErrClosed after Close. A failed call may have applied some of its exports. Repeating it is safe.
type Exporter interface {
	// Name is "exportfs" or "kernel".
	Name() string

	// Start makes the exports below the base path equal to initial, in one batch: it adds missing
	// exports, changes differing ones and removes all others. It is called once, before any other
	// method except List.
	Start(ctx context.Context, initial []Export) error

	// Export publishes each export. It is idempotent and replaces the options and file system ID of
	// an export with the same path and client. After it returns without an error, the server
	// refuses handles with a replaced ID. If a read-only export has replaced a writable one, that
	// client can no longer write, and none of its writes is in progress.
	Export(ctx context.Context, exports []Export) error

	// Unexport revokes each export. Only Path and Client (or Spec) matter. It is idempotent, and is
	// the fence: after it returns without an error, those clients can no longer read or write, not
	// even through files and directories that they hold open. The directories need not exist.
	// Earlier writes of a client never reach the disk afterwards, whatever is exported to it later,
	// because a later export has another FSID.
	Unexport(ctx context.Context, exports []Export) error

	// List returns the NFS server's exports below the base path, including those of other programs.
	List(ctx context.Context) ([]Export, error)

	// Roots returns the exports of other programs that are the root of NFSv4 (fsid=0 in
	// exports(5)). Their clients look up each path below such a directory, so they cannot mount
	// volumes.
	Roots(ctx context.Context) ([]Export, error)

	// Changed receives a value, at most one pending, after another program changed or flushed
	// exports or restarted the NFS server. The caller then compares List with the wanted exports.
	// Changed is never closed.
	Changed() <-chan struct{}

	// Close stops the engine and leaves the exports in place, so that mounts keep working while the
	// agent restarts.
	Close() error
}

// Export gives one client access to one directory. Exports are comparable with ==.
type Export struct {
	// Path is the absolute, clean path of the exported subvolume,
	// {base}/{tenant}/{volume}/data.
	Path string

	// FSID is the 128-bit file system ID in the file handles. It belongs to one attachment of one
	// client. Other clients of the path have other IDs, and after Unexport the ID is never used
	// again. Handles are valid while the ID is exported, across restarts and renames.
	FSID uuid.UUID

	// Client is the address of one host, without a zone (ValidateClient). An
	// IPv4-mapped IPv6 address means the IPv4 address.
	Client netip.Addr

	// Options say what the client may do.
	Options Options

	// Spec is set only by List, for an export of another program that is not to one address ("*",
	// "10.0.0.0/8", "host.example"). Spec is the server's name for the client, and Client is the
	// zero Addr. Such an Export may be passed to Unexport.
	Spec string
}

// Options of an export. The zero value is what a volume for containers needs: writable, without
// root squash, because pods run as root and chown.
type Options struct {
	ReadOnly   bool
	RootSquash bool

	// Security lists the RPC security flavors that the client may use, the preferred one first.
	// Empty means "sys".
	Security Flavors

	// XprtSec lists the transport security modes that the client may use.
	// Empty means any. Needs Linux 6.4 and nfs-utils 2.6.4 or newer.
	XprtSec TransportModes
}

// Key identifies an export. It does not change with the options.
type Key struct {
	Path   string
	Client netip.Addr
	Spec   string
}

// Key returns the export's identity.
func (e Export) Key() Key {
	return Key{Path: e.Path, Client: e.Client.Unmap(), Spec: e.Spec}
}
