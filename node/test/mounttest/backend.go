package mounttest

import (
	"testing"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
)

// Fragile is a volume on a separate server.
type Fragile struct {
	Source  nfsmount.Source
	Silence func() // the server stops answering
	Revive  func() // it answers again
	Revoke  func() // it revokes this node's access, and the mounts become stale
	Restore func() // it lets this node in again, for new mounts
}

// Backend is a filesystem for volumes under test.
type Backend interface {
	Mounter() *nfsmount.Mounter
	// Filesystem is what the mounter mounts.
	Filesystem() nfsmount.Filesystem
	// Limits are the mounter's deadlines. They are short, so that tests with a silent server end soon.
	Limits() nfsmount.Limits
	// Options are the mount options of its volumes.
	Options() []string
	// NewVolume creates an empty volume.
	NewVolume(t *testing.T) nfsmount.Source
	// NewFragile creates an empty volume whose server the test controls.
	NewFragile(t *testing.T) Fragile
}

// Patience is longer than any operation may take when a server does not answer.
func Patience(b Backend) time.Duration {
	limits := b.Limits()
	return limits.Mount + limits.Unmount + 6*limits.Stat
}
