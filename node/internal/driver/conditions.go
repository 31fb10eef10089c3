package driver

import (
	"context"
	"errors"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
)

// Reasons of health conditions, of volumes and of the node's storage. Those that an agent finds keep their own.
const (
	reasonMountMissing  = "MountMissing"               // it was mounted and is not any more
	reasonMountStale    = "MountStale"                 // mounted before the volume was attached again
	reasonMountForeign  = "MountForeign"               // another volume is mounted in its place
	reasonMountBroken   = "MountBroken"                // the mount fails in another way
	reasonMountReadOnly = "MountReadOnly"              // it was mounted writable and is not any more
	reasonMountFailed   = "MountFailed"                // it could not be mounted
	reasonExportMissing = agentapi.ReasonExportMissing // the server does not let this node in, or no more
	reasonServerSilent  = "ServerNotResponding"        // within the deadline
	reasonVolumeFull    = agentapi.ReasonVolumeFull    // its limit is reached
	reasonAgentSilent   = csiserver.ReasonAgentUnreachable

	reasonNoHelper       = "MountHelperMissing"    // no mount.nfs(8)
	reasonNoKernelNFS    = "KernelWithoutNFS"      // no NFSv4 client
	reasonNoAddress      = "StorageAddressMissing" // nothing to mount from
	reasonAddressChanged = "StorageAddressChanged" // since the orchestrator was told
)

const (
	degraded     = csi.VolumeHealthErrorType_DEGRADED
	inaccessible = csi.VolumeHealthErrorType_INACCESSIBLE
)

// reasonOf is the reason for which a mount is of no use.
func reasonOf(err error) string {
	switch {
	case errors.Is(err, nfsmount.ErrUnresponsive):
		return reasonServerSilent
	case errors.Is(err, nfsmount.ErrNotMounted), errors.Is(err, nfsmount.ErrTarget):
		return reasonMountMissing
	case errors.Is(err, nfsmount.ErrDenied), errors.Is(err, unix.EACCES):
		return reasonExportMissing
	case errors.Is(err, unix.ESTALE): // nfsmount.ErrStale is also other errors that a new mount cures
		return reasonMountStale
	}
	return reasonMountBroken
}

// maxFailures bounds the memory of volumes that could not be mounted: an orchestrator need not come back for one.
const maxFailures = 1000

// failures are the reasons why volumes could not be staged, until they are or until the orchestrator gives up. They are not
// kept over a restart: the orchestrator tries again. It is safe for concurrent use.
type failures struct {
	mu     sync.Mutex
	errors map[string]error // by volume ID
}

// note forgets another one where there are too many. That the caller has gone is nobody's failure.
func (f *failures) note(volumeID string, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.errors == nil {
		f.errors = map[string]error{}
	}
	for other := range f.errors {
		if len(f.errors) < maxFailures {
			break
		}
		delete(f.errors, other)
	}
	f.errors[volumeID] = err
}

func (f *failures) forget(volumeID string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.errors, volumeID)
}

func (f *failures) of(volumeID string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.errors[volumeID]
}
