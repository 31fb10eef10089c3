package driver

import (
	"errors"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
)

// Reasons of health conditions, of volumes and of the node's storage. Conditions that an agent
// reports keep their reasons.
const (
	reasonMountMissing  = "MountMissing"               // it was mounted and no longer is
	reasonMountStale    = "MountStale"                 // the mount is older than the volume's present attachment
	reasonMountForeign  = "MountForeign"               // another volume is mounted at its place
	reasonMountBroken   = "MountBroken"                // the mount fails with another error
	reasonMountReadOnly = "MountReadOnly"              // it was mounted writable and is now read-only
	reasonMountFailed   = "MountFailed"                // the mount failed
	reasonExportMissing = agentapi.ReasonExportMissing // the server does not or no longer let this node in
	reasonServerSilent  = "ServerNotResponding"        // within the deadline
	reasonVolumeFull    = agentapi.ReasonVolumeFull    // its limit is reached
	reasonAgentSilent   = csiserver.ReasonAgentUnreachable

	reasonNoHelper       = "MountHelperMissing"    // no mount.nfs(8)
	reasonNoKernelNFS    = "KernelWithoutNFS"      // no NFSv4 client
	reasonNoAddress      = "StorageAddressMissing" // there is no address to mount from
	reasonAddressChanged = "StorageAddressChanged" // since the orchestrator read it
)

const (
	degraded     = csi.VolumeHealthErrorType_DEGRADED
	inaccessible = csi.VolumeHealthErrorType_INACCESSIBLE
)

// reasonOf returns the reason why a mount is unusable.
func reasonOf(err error) string {
	switch {
	case errors.Is(err, nfsmount.ErrUnresponsive):
		return reasonServerSilent
	case errors.Is(err, nfsmount.ErrNotMounted), errors.Is(err, nfsmount.ErrTarget):
		return reasonMountMissing
	case errors.Is(err, nfsmount.ErrDenied), errors.Is(err, unix.EACCES):
		return reasonExportMissing
	case errors.Is(err, unix.ESTALE): // nfsmount.ErrStale also includes other errors that a new mount cures
		return reasonMountStale
	}
	return reasonMountBroken
}
