// Package nfs says which directories the kernel's NFS server serves to whom.
//
// It holds the vocabulary only. The engines that make the server follow are in
// exportfs (drives nfs-utils) and kernel (answers the kernel's export caches
// itself); engine chooses between them; nfstest is the one suite that both pass.
package nfs

import (
	"context"
	"net/netip"

	"github.com/google/uuid"
)

// Exporter keeps the NFS server's exports below one base path equal to what it
// is told. Exports of other paths are never touched. All methods may be called
// from many goroutines at once; calls that wait at the same time share work.
//
// Errors: ErrInvalid for an export that can never work, ErrNotFound for a path
// that is not there, ErrUnavailable while the NFS server or its tools cannot be
// reached (a later call may succeed), ErrClosed after Close. A call that fails
// may have applied some of its exports; calling it again is safe.
type Exporter interface {
	// Name is "exportfs" or "kernel".
	Name() string

	// Start makes the exports below the base path exactly initial, in one
	// batch: missing ones appear, differing ones change, all others go away.
	// It is called once, before any other method but List.
	Start(ctx context.Context, initial []Export) error

	// Export publishes each export. It is idempotent and replaces the options
	// and file system ID of an export with the same path and client. When it
	// returns without an error, handles with a replaced ID are refused. Where a
	// read-only export has replaced a writable one, that client can no longer
	// write, and none of its writes is under way.
	Export(ctx context.Context, exports []Export) error

	// Unexport takes each export back; only Path and Client (or Spec) matter.
	// It is idempotent, and is the fence: when it returns without an error,
	// those clients can no longer read or write, also through files and
	// directories that they hold open. The directories need not exist. Nothing
	// that a client wrote before reaches the disk afterwards, whatever is
	// exported to it later, because that has another FSID.
	Unexport(ctx context.Context, exports []Export) error

	// List returns what the NFS server really has below the base path, which
	// includes exports that somebody else made.
	List(ctx context.Context) ([]Export, error)

	// Roots returns what others export as the root of NFSv4 (fsid=0 in
	// exports(5)). Their clients look for each path below such a directory, so
	// that they cannot mount volumes.
	Roots(ctx context.Context) ([]Export, error)

	// Changed receives a value, at most one waiting, after somebody else
	// changed or flushed exports or restarted the NFS server: a good moment to
	// compare List with what should be there. It is never closed.
	Changed() <-chan struct{}

	// Close stops the engine's own work and leaves the exports in place, so
	// that mounts go on while the agent restarts.
	Close() error
}

// Export lets one client reach one directory. Exports are comparable with ==.
type Export struct {
	// Path is the absolute, clean path of the exported subvolume,
	// {base}/{tenant}/{volume}/data.
	Path string

	// FSID is the 128-bit file system ID that file handles carry. It belongs to
	// one attachment of one client: other clients of the path have others, and
	// after Unexport it is never used again. Handles are valid as long as it is
	// exported, over restarts and renames, and never after.
	FSID uuid.UUID

	// Client is the address of one host, without a zone (ValidateClient). An
	// IPv4-mapped IPv6 address means the IPv4 address.
	Client netip.Addr

	// Options say what the client may do.
	Options Options

	// Spec is set by List alone, for an export that somebody else made to
	// more or other than one address ("*", "10.0.0.0/8", "host.example"):
	// the client as the server has it, while Client is the zero Addr. Such an
	// Export may be given to Unexport.
	Spec string
}

// Options of an export. The zero value is what a volume for containers needs:
// writable, with root being root, because pods run as root and chown.
type Options struct {
	ReadOnly   bool
	RootSquash bool

	// Security lists the RPC security flavours that the client may use, the
	// preferred one first. Empty means "sys".
	Security Flavors

	// XprtSec lists the transport security modes that the client may use.
	// Empty means any. Needs Linux 6.4 and nfs-utils 2.6.4 or newer.
	XprtSec TransportModes
}

// Key is what makes an export one and the same over changes of its options.
type Key struct {
	Path   string
	Client netip.Addr
	Spec   string
}

// Key returns the export's identity.
func (e Export) Key() Key {
	return Key{Path: e.Path, Client: e.Client.Unmap(), Spec: e.Spec}
}
